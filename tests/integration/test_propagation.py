"""Changes in the store reach every worker; ports of apps open and close; what cannot be opened is a state of its app.

How fast that is, bench/propagation.py measures. The bounds here only tell "it arrives" from "it does not".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from flyproxy.apps.model import App
from flyproxy.state import commands
from flyproxy.state.commands import Revision
from flyproxy.state.sqlite import SqliteStore
from tests.kit import world
from tests.kit.bulk import View
from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon, free_port
from tests.kit.vm import ScriptedVM
from tests.kit.wait import until

CHANGES = 200
LATE_S = 2.0
Work = Callable[[SqliteStore], Coroutine[Any, Any, Revision]]
Change = Callable[[Work], Revision]


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Five free ports: app_ports allows all but the last."""
    found: set[int] = set()
    while len(found) < 5:
        found.add(free_port())
    return list(found)


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM, ports: list[int]) -> ProxyDaemon:
    started = start_daemon(workers={"count": 2}, app_ports=[str(port) for port in ports[:-1]],
                           table={"hostnames": 2 * CHANGES})
    started.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    return started


@pytest.fixture(scope="module")
def view(daemon: ProxyDaemon) -> View:
    assert daemon.process is not None
    return View(daemon.process.pid)


@pytest.fixture
def change(daemon: ProxyDaemon) -> Iterator[Change]:
    """Does something to the daemon's store as another process would: ``change(lambda store: commands.…(store, …))``."""
    with asyncio.Runner() as runner:
        store = runner.run(opened(daemon))
        yield lambda what: runner.run(what(store))
        runner.run(store.close())


async def opened(daemon: ProxyDaemon) -> SqliteStore:
    return SqliteStore(str(daemon.dir / "state/state.db"))


def web(*ports: int) -> App:
    """App "web" with http ports besides 80."""
    return world.app("web", *(world.service(port) for port in (80, *ports)))


async def add_hostname(store: SqliteStore, host: str) -> Revision:
    return await commands.add_hostname(store, host, "web")


def row(daemon: ProxyDaemon, port: int) -> dict[str, Any] | None:
    """What ``status`` says of a service port."""
    rows = [one for one in daemon.status()["listeners"] if one["port"] == port]
    return rows[0] if rows else None


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def get(port: int, host: str = "web.localhost") -> str | None:
    """The error of a request on this port, None when it was served."""
    with RawClient(("127.0.0.1", port)) as client:
        answer = client.get(host=host)
        return None if answer.status == 200 else answer.error


def test_each_change_reaches_every_worker(daemon: ProxyDaemon, view: View, change: Change) -> None:
    last = 0
    for number in range(CHANGES):
        host, removes = f"name-{number % 20}.localhost", number // 20 % 2
        work = partial(commands.remove_hostname, host=host) if removes else partial(add_hostname, host=host)
        revision = change(work)
        assert revision.changed and revision > last
        last = revision
        view.wait(revision, LATE_S)
        beats = [view.root.proc(proc) for proc in view.root.live()]
        assert len(beats) == 2 and all(beat.revision >= revision for beat in beats)
        assert (view.table.lookup_host(host) is None) == bool(removes)


def test_changes_that_come_at_once_arrive_together_and_whole(daemon: ProxyDaemon, view: View, change: Change) -> None:
    async def many(store: SqliteStore) -> Revision:
        names = (f"burst-{number}.localhost" for number in range(CHANGES))
        return max(await asyncio.gather(*(add_hostname(store, name) for name in names)))

    view.wait(change(many), LATE_S)
    assert all(view.table.lookup_host(f"burst-{number}.localhost") == "web" for number in range(CHANGES))


def test_a_new_port_opens_and_a_removed_one_closes(daemon: ProxyDaemon, change: Change, ports: list[int]) -> None:
    port, other = ports[:2]
    assert refused(port) and refused(other)
    change(lambda store: commands.apply_app(store, web(port, other)))
    until(lambda: not refused(port) and not refused(other), "both ports open", LATE_S)
    until(lambda: get(port) is None and get(other) is None, "both are served", LATE_S)
    change(lambda store: commands.apply_app(store, web(other)))
    until(lambda: refused(port), "the removed port closes", LATE_S)
    assert get(other) is None and row(daemon, port) is None
    change(lambda store: commands.apply_app(store, web()))
    until(lambda: refused(other), "the last one closes", LATE_S)


def test_a_port_stays_open_until_the_last_app_lets_go(daemon: ProxyDaemon, change: Change, ports: list[int]) -> None:
    port = ports[0]
    change(lambda store: commands.apply_app(store, web(port)))
    change(lambda store: commands.apply_app(store, world.app("second", world.service(port))))
    until(lambda: row(daemon, port) and sorted((row(daemon, port) or {})["apps"]) == ["second", "web"], "both want it")
    change(lambda store: commands.apply_app(store, web()))
    until(lambda: (row(daemon, port) or {}).get("apps") == ["second"], "one lets go")
    assert get(port) == "PE04"
    change(lambda store: commands.remove_app(store, "second"))
    until(lambda: refused(port), "nobody wants it any more", LATE_S)


def test_connections_outlive_their_port(daemon: ProxyDaemon, change: Change, ports: list[int]) -> None:
    port = ports[0]
    change(lambda store: commands.apply_app(store, web(port)))
    until(lambda: not refused(port) and get(port) is None, "the port is served", LATE_S)
    with RawClient(("127.0.0.1", port)) as client:
        assert client.get().status == 200
        change(lambda store: commands.apply_app(store, web()))
        until(lambda: refused(port), "the port closes", LATE_S)
        assert client.get().error == "PE04"


def test_a_forbidden_port_is_a_state_of_its_app(daemon: ProxyDaemon, change: Change, ports: list[int]) -> None:
    forbidden = ports[-1]
    change(lambda store: commands.apply_app(store, web(forbidden)))
    until(lambda: row(daemon, forbidden), "the port is known")
    told = row(daemon, forbidden)
    assert told and told["state"].startswith("not allowed") and told["apps"] == ["web"] and refused(forbidden)
    served_as_before(daemon)
    change(lambda store: commands.apply_app(store, web()))


def test_a_taken_port_is_a_state_of_its_app_until_it_is_free(
    daemon: ProxyDaemon, change: Change, ports: list[int]
) -> None:
    port = ports[2]
    with socket.create_server(("0.0.0.0", port)):
        change(lambda store: commands.apply_app(store, web(port)))
        until(lambda: row(daemon, port), "the port is known")
        told = row(daemon, port)
        assert told and told["state"].startswith("failed: Address already in use") and told["apps"] == ["web"]
        shown = daemon.ctl("apps", "show", "web")["services"]
        states = {one["port"]: one["state"] for service in shown for one in service["ports"]}
        assert states[80] == "listening" and states[port] == told["state"]
        served_as_before(daemon)
    until(lambda: not refused(port) and get(port) is None, "it is opened once it is free", 15)
    change(lambda store: commands.apply_app(store, web()))


def served_as_before(daemon: ProxyDaemon) -> None:
    """The app's other ports work, and a reload succeeds, with the workers that were there."""
    workers = daemon.ctl("workers")
    assert get(daemon.port()) is None
    daemon.ctl("reload")
    assert [one["pid"] for one in daemon.ctl("workers")] == [one["pid"] for one in workers]
    assert get(daemon.port()) is None
