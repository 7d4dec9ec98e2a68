"""The state as operators and the API see it: plain dicts in the shapes that INTERFACE names.

What only the running daemon knows is left open here: ``in_flight`` and ``closeness`` are None, and a port that could be
served has the state "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flyproxy.apps.model import App, Port, Service
from flyproxy.state import records
from flyproxy.state.commands import machine_scopes
from flyproxy.state.records import GLOBAL, Health, HealthStatus, Host, Hostname, Invalid, Ip, Machine
from flyproxy.state.store import StateStore


class MachineNow(NamedTuple):
    """A machine with its health."""

    id: str
    app: str
    address: str
    port: int
    region: str
    host: str
    health: HealthStatus
    cordoned: bool


@dataclass
class World:
    """Every valid record, by name; ``revision`` is the store's."""

    revision: int = 0
    apps: dict[str, App] = field(default_factory=dict)
    hostnames: dict[str, str] = field(default_factory=dict)
    ips: dict[str, str | None] = field(default_factory=dict)
    machines: dict[str, MachineNow] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)


async def load_world(store: StateStore) -> World:
    """Reads everything. Raises StoreError."""
    world, machines, health = World(), {}, {}
    for scope in (GLOBAL, *await machine_scopes(store)):
        snapshot = await store.snapshot(scope)
        world.revision = max(world.revision, snapshot.cursor.revision)
        for key, (value, _) in snapshot.values.items():
            try:
                record = records.decode(scope, key, value)
            except Invalid:
                continue
            match record:
                case App():
                    world.apps[record.name] = record
                case Hostname():
                    world.hostnames[record.host] = record.app
                case Ip():
                    world.ips[record.address] = record.app
                case Machine():
                    machines[record.id] = record
                case Host():
                    world.hosts[record.id] = record
                case Health():
                    health[record.machine] = record.status
    world.machines = {
        one.id: MachineNow(one.id, one.app, one.address, one.port, one.region, one.host,
                           health.get(one.id, "unknown"), one.cordoned)
        for one in machines.values()
    }
    return world


def apps(world: World) -> list[dict[str, Any]]:
    """All apps, by name."""
    hosts: dict[str, list[str]] = {}
    for host, owner in sorted(world.hostnames.items()):
        hosts.setdefault(owner, []).append(host)
    return [app(one, hosts.get(name, [])) for name, one in sorted(world.apps.items())]


def app(one: App, hostnames: list[str]) -> dict[str, Any]:
    """One app with its host names."""
    return {
        "name": one.name, "hostnames": hostnames, "services": [_service(service) for service in one.services],
        "ignored_keys": list(one.ignored_keys),
    }


def machines(world: World, app: str | None = None) -> list[dict[str, Any]]:
    """All machines, or those of one app, by app and id."""
    chosen = [one for one in world.machines.values() if app in (None, one.app)]
    return [machine(one) for one in sorted(chosen, key=lambda one: (one.app, one.id))]


def machine(one: MachineNow) -> dict[str, Any]:
    """One machine."""
    return {**one._asdict(), "in_flight": None}


def hostnames(world: World, app: str | None = None) -> list[dict[str, Any]]:
    """All host names, or those of one app."""
    return [{"hostname": host, "app": owner} for host, owner in sorted(world.hostnames.items()) if app in (None, owner)]


def ips(world: World, app: str | None = None) -> list[dict[str, Any]]:
    """All addresses, or those of one app."""
    return [
        {"address": address, "app": owner, "shared": owner is None}
        for address, owner in sorted(world.ips.items()) if app in (None, owner)
    ]


def hosts(world: World, here: str) -> list[dict[str, Any]]:
    """All hosts of the mesh; ``here`` is the id of this one."""
    return [
        {
            "id": one.id, "region": one.region, "address": one.address, "ports": list(one.ports), "epoch": one.epoch,
            "roles": list(one.roles), "tls": one.tls, "here": one.id == here, "closeness": None,
        }
        for _, one in sorted(world.hosts.items())
    ]


def _service(service: Service) -> dict[str, Any]:
    limits = service.concurrency
    return {
        "protocol": service.protocol,
        "internal_port": service.internal_port,
        "ports": [_port(service, port) for port in service.ports],
        "concurrency": {
            "type": limits.type, "soft_limit": limits.soft_limit, "hard_limit": limits.hard_limit or None,
        },
        "balance": service.balance,
        "balance_key": service.balance_key,
        "half_close": service.half_close,
    }


def _port(service: Service, port: Port) -> dict[str, Any]:
    where = {"port": port.start} if port.start == port.end else {"start_port": port.start, "end_port": port.end}
    return {**where, "handlers": list(port.handlers), "state": service.port_state(port) or "unknown"}
