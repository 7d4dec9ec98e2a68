"""A table that keeps what it is told and holds the caller to the writer's contract."""

from __future__ import annotations

from typing import Any

from flyproxy.apps.model import VERSION, App, Concurrency, Port, Service
from flyproxy.state import records
from flyproxy.state.guard import Good, Place, Update
from flyproxy.state.records import Record


class FakeFull(Exception):
    """Stands in for TableFull."""


class FakeTable:
    """``view`` is what readers see: the state at the last commit. An app that is removed keeps its place until then."""

    def __init__(self, machines: int = 10_000, apps: int = 10_000) -> None:
        self.machines_max = machines
        self.apps_max = apps
        self.commits: list[int] = []
        self.view: dict[str, dict[Any, Any]] = {}
        self.calls: list[str] = []
        self.failing_commits = 0
        self.breaks_on: set[str] = set()

    def reset(self) -> None:
        self.apps: dict[str, Any] = {}
        self.hostnames: dict[str, str] = {}
        self.addresses: dict[bytes, str | None] = {}
        self.machines: dict[str, tuple[Any, ...]] = {}
        self.hosts: dict[str, tuple[Any, ...]] = {}
        self.regions: list[str] = []

    def put_app(self, name: str, services: list[dict[str, Any]]) -> None:
        self._call("put_app", name)
        if name not in self.apps and len(self.apps.keys() | self.view.get("apps", {}).keys()) >= self.apps_max:
            raise FakeFull("the table holds no more apps; raise table.apps")
        self.apps[name] = services

    def remove_app(self, name: str) -> None:
        self._call("remove_app", name)
        named = {*self.hostnames.values(), *self.addresses.values(), *(one[0] for one in self.machines.values())}
        assert name not in named, f"{name} is removed before what names it"
        del self.apps[name]

    def put_hostname(self, host: str, app: str) -> None:
        self._call("put_hostname", host)
        assert app in self.apps
        self.hostnames[host] = app

    def remove_hostname(self, host: str) -> None:
        self._call("remove_hostname", host)
        del self.hostnames[host]

    def put_address(self, ip16: bytes, app: str | None) -> None:
        self._call("put_address", ip16.hex())
        assert app is None or app in self.apps
        self.addresses[ip16] = app

    def remove_address(self, ip16: bytes) -> None:
        self._call("remove_address", ip16.hex())
        del self.addresses[ip16]

    def put_machine(self, id: str, app: str, *rest: Any) -> None:
        self._call("put_machine", id)
        assert app in self.apps
        if id not in self.machines and len(self.machines) >= self.machines_max:
            raise FakeFull("the table holds no more machines; raise table.machines")
        self.machines[id] = (app, *rest)

    def remove_machine(self, id: str) -> None:
        self._call("remove_machine", id)
        del self.machines[id]

    def put_host(self, id: str, *rest: Any) -> None:
        self._call("put_host", id)
        self.hosts[id] = rest

    def remove_host(self, id: str) -> None:
        self._call("remove_host", id)
        del self.hosts[id]

    def set_region_order(self, regions: list[str]) -> None:
        self._call("set_region_order", " ".join(regions))
        self.regions = list(regions)

    def commit(self, revision: int) -> None:
        if self.failing_commits:
            self.failing_commits -= 1
            raise FakeFull("the table is full: all bytes of memory are in use")
        self.commits.append(revision)
        self.view = {
            "apps": dict(self.apps), "hostnames": dict(self.hostnames), "addresses": dict(self.addresses),
            "machines": dict(self.machines), "hosts": dict(self.hosts), "regions": dict.fromkeys(self.regions),
        }

    def _call(self, name: str, argument: str) -> None:
        self.calls.append(f"{name} {argument}")
        if argument in self.breaks_on:
            raise RuntimeError(f"the table breaks on {argument}")


def http_app(name: str, *, port: int = 80, handlers: tuple[Any, ...] = ("http",), internal: int = 8080) -> App:
    return App(VERSION, name, (Service("tcp", internal, (Port(port, port, handlers),), Concurrency()),))


def machine(id: str, app: str, *, region: str = "ams", address: str = "10.0.0.1") -> records.Machine:
    return records.Machine(VERSION, id, app, address, 0, region, "h1")


def host(id: str, *, region: str = "ams", address: str = "10.9.0.1", epoch: int = 1_800_000_000) -> records.Host:
    return records.Host(VERSION, id, region, address, (7443, 7444), epoch, ("edge", "worker"))


def place_of(record: Record, scope: str = "") -> Place:
    own, key = records.key_of(record)
    return own or scope, key


def put(record: Record, revision: int = 1, scope: str = "") -> Update:
    return Update(place_of(record, scope), Good(records.encode(record), revision, record))


def gone(record: Record, scope: str = "") -> Update:
    return Update(place_of(record, scope), None)
