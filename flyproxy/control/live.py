"""What records cannot tell: the state of ports, the load of machines, how far hosts are. Pure functions over JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

LISTENING = "listening"
UNKNOWN = "unknown"


def port_states(listeners: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """The state of each service port, from the master's rows; a port that listens anywhere is listening."""
    states: dict[int, str] = {}
    for row in listeners:
        if row.get("source") == "backhaul":  # no port of apps, whatever its number
            continue
        port = int(row.get("service_port", row["port"]))
        if states.get(port) != LISTENING:
            states[port] = str(row["state"])
    return states


def with_port_states(app: Mapping[str, Any], states: Mapping[int, str]) -> dict[str, Any]:
    """The app with a state in every port; one that its record explains (``waiting: tls``) keeps that."""
    return {**app, "services": [
        {**service, "ports": [_with_state(port, states) for port in service["ports"]]} for service in app["services"]]}


def _with_state(port: Mapping[str, Any], states: Mapping[int, str]) -> dict[str, Any]:
    explained = port.get("state", UNKNOWN) != UNKNOWN
    return {**port, "state": port["state"] if explained else _range_state(port, states)}


def _range_state(port: Mapping[str, Any], states: Mapping[int, str]) -> str:
    """The state that all ports of a range share, else the first that is not listening, with its port."""
    first = port.get("port") or port["start_port"]
    numbers = range(first, (port.get("port") or port["end_port"]) + 1)
    told = {number: states.get(number, UNKNOWN) for number in numbers}
    if len(set(told.values())) == 1:
        return told[first]
    return next(f"{state} (port {number})" for number, state in told.items() if state != LISTENING)


def settled(app: Mapping[str, Any]) -> bool:
    """Whether the state of every port is known."""
    return all(port["state"] != UNKNOWN for service in app["services"] for port in service["ports"])


def closenesses(
    hosts: Iterable[Mapping[str, Any]], measured: Callable[[int], tuple[str, int, int | None]]
) -> dict[str, dict[str, Any]]:
    """Host → {state, rtt_ms, via}, from the table's hosts and what is measured at each one's slot."""
    ids = {host["slot"]: host["id"] for host in hosts}
    found = {}
    for slot, name in ids.items():
        state, rtt_us, via = measured(slot)
        reached = state in ("direct", "via")
        found[name] = {"state": state, "rtt_ms": rtt_us / 1000 if reached else None,
                       "via": None if via is None else ids.get(via)}
    return found


def with_closeness(host: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The host with how far it is; null for this one, and while the table does not have it."""
    return {**host, "closeness": None if host["here"] else known.get(host["id"])}


def with_in_flight(machine: Mapping[str, Any], in_flight: Mapping[str, int]) -> dict[str, Any]:
    """The machine with its load; null while the table does not have it."""
    return {**machine, "in_flight": in_flight.get(machine["id"])}
