"""What records cannot tell: the state of ports and the load of machines. Pure functions over JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LISTENING = "listening"
UNKNOWN = "unknown"


def port_states(listeners: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """The state of each service port, from the master's rows; a port that listens anywhere is listening."""
    states: dict[int, str] = {}
    for row in listeners:
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


def with_in_flight(machine: Mapping[str, Any], in_flight: Mapping[str, int]) -> dict[str, Any]:
    """The machine with its load; null while the table does not have it."""
    return {**machine, "in_flight": in_flight.get(machine["id"])}
