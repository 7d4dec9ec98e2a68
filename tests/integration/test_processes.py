"""Processes under load, with the real engine: reloads lose nothing, deaths lose only what was in flight."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import daemons
from tests.integration.steady_load import SteadyLoad
from tests.kit.daemon import ProxyDaemon, command_line, free_port, toml
from tests.kit.vm import ScriptedVM, Seen, VMConnection
from tests.kit.wait import stand_still, until

CLIENTS = 4
CALM_S = 0.02  # between two requests of a client, where the load lasts for many seconds
ACCIDENTS = ["respawn", "exited", "suspect", "recovered", "killing", "stuck", "reload-refused", "not-json"]


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., ProxyDaemon]]:
    """Daemons end with their test: nearly every one of this file has its own."""
    with daemons() as start:
        yield start


@pytest.fixture
def proxy(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    """Two workers on four slots; accidents may be logged."""
    daemon = start_daemon(workers={"count": 2, "slots": 4, "stuck_after": "1s"}, allowed=ACCIDENTS)
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    return daemon


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ready(daemon: ProxyDaemon) -> list[dict[str, Any]]:
    return [row for row in daemon.ctl("workers") if row["state"] == "ready"]


def configure(daemon: ProxyDaemon, **workers: Any) -> None:
    """Changes keys of [workers] in the daemon's file."""
    text = daemon.config.read_text()
    for key, value in workers.items():
        line = toml({key: value}).strip()
        text, found = re.subn(rf"^{key} = .*$", line, text, flags=re.MULTILINE)
        assert found == 1, f"{key} is not in {daemon.config}"
    daemon.config.write_text(text)


def test_a_reload_changes_the_region_everywhere(proxy: ProxyDaemon, vm: ScriptedVM) -> None:
    proxy.config.write_text(proxy.config.read_text().replace('region = "loc"', 'region = "fra"'))
    assert proxy.ctl("reload")["changed"] == ["region"] and proxy.status()["region"] == "fra"
    with proxy.client() as client:
        until(lambda: (client.get().header("fly-request-id") or "").endswith("-fra"), "the worker is told")
        client.get("/its-region")
    assert vm.wait_seen("/its-region").header("fly-region") == "fra"


def test_reloads_lose_no_request(proxy: ProxyDaemon) -> None:
    before = {row["pid"] for row in ready(proxy)}
    with SteadyLoad(proxy, CLIENTS) as kept, SteadyLoad(proxy, CLIENTS, keep=False) as fresh:
        for number in range(3):
            proxy.ctl("reload", "--workers")
            kept.more(50)
            configure(proxy, stuck_after=f"{2 + number}s")
            proxy.ctl("reload")
            fresh.more(50)
    kept.assert_nothing_lost()
    fresh.assert_nothing_lost()
    assert {row["pid"] for row in ready(proxy)}.isdisjoint(before)
    assert {row["generation"] for row in ready(proxy)} == {4}


@pytest.mark.alone("how long a request waits at most")
def test_a_killed_worker_loses_only_what_was_in_flight_on_it(proxy: ProxyDaemon) -> None:
    with SteadyLoad(proxy, CLIENTS, keep=False) as load:
        for _ in range(3):
            victim = ready(proxy)[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            load.more(50)
            until(lambda: len(ready(proxy)) == 2, "it is replaced")
    assert len(load.lost) <= 3 * CLIENTS, load.lost
    assert load.slowest < 1.0


@pytest.mark.alone("how long a request waits at most")
def test_a_stopped_worker_delays_no_connect_and_is_replaced(proxy: ProxyDaemon) -> None:
    victim = ready(proxy)[0]["pid"]
    with SteadyLoad(proxy, CLIENTS, keep=False) as load:
        stand_still(victim)
        until(lambda: not alive(victim), "the watchdog kills it", 15)
        until(lambda: len(ready(proxy)) == 2, "it is replaced")
        load.more(50)
    assert len(load.lost) <= CLIENTS, load.lost
    assert load.slowest < 1.0
    (dump,) = [record for record in proxy.events() if record["event"] == "stuck"]
    assert {thread["comm"] for thread in dump["threads"]} and dump["child_pid"] == victim


@pytest.mark.parametrize("role", ["state", "control"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_traffic_does_not_need_state_or_control(proxy: ProxyDaemon, role: str, number: int) -> None:
    pid = proxy.status()[role]["pid"]
    with SteadyLoad(proxy, CLIENTS, keep=False) as load:
        os.kill(pid, number)
        load.more(200)
        if number == signal.SIGKILL:
            until(lambda: proxy.status()[role]["state"] == "ready", "it is back")
            load.more(50)
    load.assert_nothing_lost()
    if number == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)


def test_the_number_of_workers_changes_without_a_lost_request(
    start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM
) -> None:
    daemon = start_daemon(workers={"count": 4, "slots": 4})
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    with SteadyLoad(daemon, CLIENTS, keep=False) as load:
        for count in (2, 4):
            configure(daemon, count=count)
            daemon.ctl("reload")
            until(partial(settled, daemon, count), f"{count} workers")
            load.more(100)
    load.assert_nothing_lost()
    assert [row["slots"] for row in ready(daemon)] == [[0], [1], [2], [3]]


def settled(daemon: ProxyDaemon, count: int) -> bool:
    return [row["state"] for row in daemon.ctl("workers")] == ["ready"] * count


def test_a_generation_that_never_gets_ready_changes_nothing(proxy: ProxyDaemon) -> None:
    before = {row["pid"] for row in ready(proxy)}
    with SteadyLoad(proxy, CLIENTS, pause=CALM_S) as load:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(str(proxy.dir / "run" / "ctl.sock"))
            line.sendall(b'{"v":1,"cmd":"reload","workers":true}\n')
            (fresh,) = until(lambda: newcomers(proxy, before)[:1], "a new worker begins")
            stand_still(fresh)
            answer = line.makefile("rb").readline()
        load.more(50)
    assert b"not ready within 10 s" in answer and b"reload_refused" in answer
    load.assert_nothing_lost()
    until(lambda: {row["pid"] for row in proxy.ctl("workers")} == before, "only the old workers are left")


def newcomers(daemon: ProxyDaemon, known: set[int]) -> list[int]:
    """Living children of the master that run the worker's program and are not ``known``."""
    return [pid for pid in daemon.processes() if b"flyproxy.worker" in command_line(pid) and pid not in known]


def test_a_graceful_end_finishes_requests_and_a_quick_one_does_not(
    start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM
) -> None:
    daemon = start_daemon()
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    held: list[VMConnection] = []

    def wait(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        held.append(conn)

    client = daemon.client()
    client.request("GET", vm.route(wait))
    until(lambda: held, "the request is at the machine")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in {record["event"] for record in daemon.events()}, "the worker drains")
    held[0].reply(b"finished\n")
    assert client.response().body == b"finished\n"
    client.assert_closed()
    assert daemon.process.wait(10) == 0


@pytest.fixture
def lonely(vm: ScriptedVM) -> Iterator[ProxyDaemon]:
    """A daemon on a port of its own, for tests that kill its master."""
    listener = {"http": {"address": f"127.0.0.1:{free_port()}", "port": 80}}
    daemon = ProxyDaemon(listener, workers={"count": 2, "slots": 2, "drain_timeout": "5s"},
                         allowed=[*ACCIDENTS, "master-gone", "adopting"]).start()  # fmt: skip
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    yield daemon
    daemon.kill()


def test_a_killed_master_costs_nothing_and_the_next_one_takes_over(lonely: ProxyDaemon) -> None:
    orphans = lonely.workers()
    assert len(orphans) == 2 and lonely.process is not None
    with SteadyLoad(lonely, CLIENTS, keep=False) as load:
        lonely.process.kill()
        lonely.process.wait()
        load.more(100)
        (lonely.dir / "notify").unlink()
        lonely.start()
        load.more(50)
        until(lambda: not any(map(alive, orphans)), "the orphans have drained", 15)
        load.more(100)
    load.assert_nothing_lost()
    assert {row["pid"] for row in ready(lonely)}.isdisjoint(orphans)
    lonely.stop(signal.SIGTERM)


def test_every_process_says_what_it_is(proxy: ProxyDaemon) -> None:
    def titles() -> set[str]:
        found = (command_line(pid).rstrip(b"\0").decode() for pid in proxy.processes())
        return set(found)

    with proxy.client() as client:
        client.get()
        shapes = {r"flyproxy: master", r"flyproxy: state", r"flyproxy: control",
                  r"flyproxy: worker [01] \(ready, 1 connections\)"}  # fmt: skip
        until(lambda: all(any(re.match(shape, title) for title in titles()) for shape in shapes), "the titles")


def test_children_have_no_rights(proxy: ProxyDaemon) -> None:
    assert proxy.process is not None
    children = [pid for pid in proxy.processes() if pid != proxy.process.pid]
    assert len(children) == 4
    for pid in children:
        status = dict(re.findall(r"^(\w+):[ \t]*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0


def test_workers_load_nothing_that_they_do_not_need(proxy: ProxyDaemon) -> None:
    for row in ready(proxy):
        maps = Path(f"/proc/{row['pid']}/maps").read_text()
        assert "engine.cpython" in maps
        assert not any(name in maps for name in ("aiohttp", "cryptography", "opentelemetry"))
