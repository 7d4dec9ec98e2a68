"""Records → the VM table in shared memory: the one caller of its writer.

Keeps the order that readers rely on: an app is in the table before what names it. Host names, addresses and machines
whose app is not there wait as orphans and follow when it comes; when an app goes, what names it is taken out first and
waits again. A record that the table has no room for is refused with the setting that makes room, and tried again after
something was taken out, and once more when that is committed: an app gives its place back only then. Nothing is visible
to readers before the commit that ends a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from flyproxy.apps.model import App, Port, Service
from flyproxy.state.guard import Place, Update
from flyproxy.state.records import Health, HealthStatus, Host, Hostname, Ip, Machine, Record, Region
from flyproxy.units import ip16

_ORDER: tuple[type[Record], ...] = (App, Hostname, Ip, Host, Machine, Health, Region)


class Writer(Protocol):
    """``flyproxy._speedups.shm.table.TableWriter``."""

    def reset(self) -> None: ...
    def put_app(self, name: str, services: list[dict[str, Any]]) -> None: ...
    def remove_app(self, name: str) -> None: ...
    def put_hostname(self, host: str, app: str) -> None: ...
    def remove_hostname(self, host: str) -> None: ...
    def put_address(self, ip16: bytes, app: str | None) -> None: ...
    def remove_address(self, ip16: bytes) -> None: ...
    def put_machine(
        self, id: str, app: str, ip16: bytes, port: int, region: str, host: str, health: HealthStatus, cordoned: bool
    ) -> None: ...
    def remove_machine(self, id: str) -> None: ...
    def put_host(
        self, id: str, region: str, ip16: bytes, ports: list[int], epoch: int, roles: list[str], tls: bool
    ) -> None: ...
    def remove_host(self, id: str) -> None: ...
    def set_region_order(self, regions: list[str]) -> None: ...
    def commit(self, revision: int) -> None: ...


class Witness(Protocol):
    """Is told what happens to each record on its way into the table."""

    def touching(self, place: Place) -> None:
        """The writer is about to be called for this record."""

    def refused(self, place: Place, reason: str) -> None:
        """The table did not take it; what it held before is still there."""

    def taken(self, place: Place) -> None:
        """The table took it."""


class WantedPort(NamedTuple):
    """A port that apps want to be reached on; ``waiting`` says why none of them can be, None when one can."""

    port: int
    waiting: str | None
    apps: list[str]


class Publisher:
    """What the table should hold, and how far it does. ``refusals`` are the writer's exceptions for one record."""

    def __init__(self, writer: Writer, witness: Witness, refusals: tuple[type[Exception], ...]) -> None:
        self.writer = writer
        self.witness = witness
        self.refusals = refusals
        self.records: dict[Place, Record] = {}
        self.in_table: set[Place] = set()
        self.apps: dict[str, App] = {}
        """The apps in the table, as they are there."""
        self.apps_changed = True
        """Whether ``apps`` is other than when this was last set to False."""
        self.of_app: dict[str, set[Place]] = {}
        self.health: dict[str, HealthStatus] = {}
        self.machines: dict[str, Place] = {}
        self.no_room: dict[Place, None] = {}
        self.gave_back = False
        """Whether something was taken out since the last commit: what it held may be free only after it."""
        writer.reset()

    def apply(self, updates: Sequence[Update]) -> None:
        """Puts a batch into the table, not yet visible to readers; of several updates of a place the last counts."""
        newest = {update.place: update.good for update in updates}
        gone = [place for place, good in newest.items() if good is None]
        for place in gone:
            self._forget(place)
        came = [(place, good.record) for place, good in newest.items() if good is not None]
        for place, record in sorted(came, key=lambda item: _ORDER.index(type(item[1]))):
            self._take(place, record)
        if gone:
            self.gave_back = True
            self._try_again()

    def commit(self, revision: int) -> None:
        """Makes everything since the last commit visible at once; then, at the same revision, what only now finds room.
        """
        self.writer.commit(revision)
        if self.gave_back:
            self.gave_back = False
            if self.no_room:
                self._try_again()
                self.writer.commit(revision)

    def wanted_ports(self) -> list[WantedPort]:
        """Every TCP port of the apps in the table, in order."""
        wanted: dict[int, tuple[list[str], list[str | None]]] = {}
        for app in self.apps.values():
            ports = (port for service in app.services if service.protocol == "tcp" for port in service.ports)
            for port in ports:
                for number in range(port.start, port.end + 1):
                    names, states = wanted.setdefault(number, ([], []))
                    names.append(app.name)
                    states.append(port.state)
        return [
            WantedPort(number, None if None in states else states[0], sorted(names))
            for number, (names, states) in sorted(wanted.items())
        ]

    def _take(self, place: Place, record: Record) -> None:
        if isinstance(record, Region):
            return
        if isinstance(record, Health):
            self.health[record.machine] = record.status
            machine = self.machines.get(record.machine)
            if machine in self.in_table:
                self._put(machine)
            return
        self._link(place, record)
        self.records[place] = record
        self._put(place)
        if isinstance(record, App) and record.name in self.apps:
            for orphan in self.of_app.get(record.name, set()) - self.in_table:
                self._put(orphan)

    def _link(self, place: Place, record: Record) -> None:
        old = self.records.get(place)
        if old is not None and _app_of(old) != _app_of(record):
            self._unlink(place, old)
        if isinstance(record, Machine):
            self.machines[record.id] = place
        if (app := _app_of(record)) is not None:
            self.of_app.setdefault(app, set()).add(place)

    def _unlink(self, place: Place, record: Record) -> None:
        app = _app_of(record)
        if app in self.of_app:
            self.of_app[app].discard(place)
            if not self.of_app[app]:
                del self.of_app[app]

    def _forget(self, place: Place) -> None:
        kind, _, name = place[1].partition(".")
        if kind == "health":
            self.health.pop(name, None)
            machine = self.machines.get(name)
            if machine in self.in_table:
                self._put(machine)
        record = self.records.pop(place, None)
        if record is None:
            return
        self._unlink(place, record)
        if isinstance(record, Machine) and self.machines.get(record.id) == place:
            del self.machines[record.id]
        self.no_room.pop(place, None)
        self._take_out(place, record)

    def _take_out(self, place: Place, record: Record) -> None:
        if isinstance(record, App):
            for dependent in self.of_app.get(record.name, ()):
                self._take_out(dependent, self.records[dependent])
        if place in self.in_table:
            self.witness.touching(place)
            self.in_table.discard(place)
            if isinstance(record, App):
                del self.apps[record.name]
                self.apps_changed = True
            _REMOVE[type(record)](self.writer, record)

    def _put(self, place: Place) -> None:
        """Writes the record if its app is in the table; otherwise sees to it that nothing of it is there."""
        record = self.records[place]
        app = _app_of(record)
        if app is not None and app not in self.apps:
            self._take_out(place, record)
            return
        self.witness.touching(place)
        try:
            self._write(record)
        except self.refusals as error:
            self.no_room[place] = None
            self.witness.refused(place, str(error))
            return
        self.no_room.pop(place, None)
        self.in_table.add(place)
        if isinstance(record, App):
            self.apps[record.name] = record
            self.apps_changed = True
        self.witness.taken(place)

    def _write(self, record: Record) -> None:
        match record:
            case App():
                self.writer.put_app(record.name, [_service(one) for one in record.services if one.protocol == "tcp"])
            case Hostname():
                self.writer.put_hostname(record.host, record.app)
            case Ip():
                self.writer.put_address(ip16(record.address), record.app)
            case Machine():
                health = self.health.get(record.id, "unknown")
                self.writer.put_machine(record.id, record.app, ip16(record.address), record.port, record.region,
                                        record.host, health, record.cordoned)

            case Host():
                self.writer.put_host(record.id, record.region, ip16(record.address), list(record.ports), record.epoch,
                                     list(record.roles), record.tls)

    def _try_again(self) -> None:
        """Gives what was refused for lack of room another chance, each kind until its first refusal."""
        for kind in _ORDER:
            for place in [place for place in self.no_room if isinstance(self.records[place], kind)]:
                self._take(place, self.records[place])
                if place in self.no_room:
                    break


_REMOVE: dict[type[Record], Callable[[Writer, Any], None]] = {
    App: lambda writer, record: writer.remove_app(record.name),
    Hostname: lambda writer, record: writer.remove_hostname(record.host),
    Ip: lambda writer, record: writer.remove_address(ip16(record.address)),
    Machine: lambda writer, record: writer.remove_machine(record.id),
    Host: lambda writer, record: writer.remove_host(record.id),
}


def _app_of(record: Record) -> str | None:
    """The app that a record names."""
    return record.app if isinstance(record, (Hostname, Ip, Machine)) else None


def _service(service: Service) -> dict[str, Any]:
    limits = service.concurrency
    return {
        "internal_port": service.internal_port, "concurrency": limits.type, "soft_limit": limits.soft_limit,
        "hard_limit": limits.hard_limit, "balance": service.balance, "balance_key": service.balance_key,
        "half_close": service.half_close, "ports": [_port(port) for port in service.ports],
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "start": port.start, "end": port.end, "handlers": list(port.handlers), "force_https": port.force_https,
        "pristine": port.pristine, "proxy_version": port.proxy_version, "idle_timeout": port.idle_timeout,
        "headers_read_timeout": port.headers_read_timeout, "h2_backend": port.h2_backend,
    }
