"""A steady load over two hops while processes and hosts die, hang, reload and return: what is lost, and what waits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.integration.steady_load import SteadyLoad
from tests.kit.daemon import ProxyDaemon
from tests.kit.region import Regions, host_of
from tests.kit.vm import ScriptedVM
from tests.kit.wait import stand_still, until

CLIENTS = 4
DEAD_S = 4.5  # a transport asks after 1 s of silence and gives up 3 s later
ROLES = {"yyz": ["edge"], "dfw": ["worker"], "syd": ["worker"]}
ACCIDENTS = ["respawn", "exited", "suspect", "recovered", "killing", "stuck", "mesh-not-direct", "table-behind"]
WORKERS = ["dfw", "syd"]


@pytest.fixture(scope="module")
def vms(start_vm: Callable[..., ScriptedVM]) -> dict[str, ScriptedVM]:
    """The one machine of each worker host."""
    return {name: start_vm(name=name) for name in WORKERS}


@pytest.fixture(scope="module")
def regions(vms: dict[str, ScriptedVM]) -> Iterator[Regions]:
    """The edge yyz-1 and two worker hosts; both machines of "web" are as near."""
    settings = {"workers": {"count": 1, "slots": 2, "stuck_after": "1s"}}
    with Regions("yyz", *WORKERS, roles=ROLES, allowed=ACCIDENTS, **settings) as started:
        started.meet()
        started["yyz"].add_app("web", hostnames=["web.localhost"])
        for name, vm in vms.items():
            started["yyz"].ctl("machines", "add", f"web-{name}", "-a", "web", "--address", vm.address,
                               "--region", "yyz", "--host", host_of(name))  # fmt: skip
        started.settle()
        yield started


@pytest.fixture
def edge(regions: Regions, vms: dict[str, ScriptedVM]) -> ProxyDaemon:
    """The edge, once it uses both hosts."""
    daemon = regions["yyz"]
    with daemon.client() as client:
        for vm in vms.values():
            used(vm, lambda: client.get().status == 200)
    return daemon


def used(vm: ScriptedVM, ask: Callable[[], object] = lambda: True) -> None:
    """Until a further request has come to the machine."""
    before = len(vm.requests)
    until(lambda: ask() and len(vm.requests) > before, f"{vm.name} is used")


def repeated(edge: ProxyDaemon) -> float:
    return edge.metric("flyproxy_retries_total")


def back(daemon: ProxyDaemon) -> None:
    """A daemon that was killed, started again."""
    (daemon.dir / "notify").unlink()
    daemon.start()


@pytest.mark.alone("how long a request waits at most")
def test_a_host_that_is_killed_loses_what_it_had_in_flight_and_is_used_again_when_it_is_back(
    regions: Regions, edge: ProxyDaemon, vms: dict[str, ScriptedVM]
) -> None:
    with SteadyLoad(edge, CLIENTS) as load:
        regions["dfw"].kill()
        load.more(200)
        back(regions["dfw"])
        used(vms["dfw"])
        load.more(50)
    assert len(load.lost) <= CLIENTS, load.lost
    assert load.slowest < 1.0


@pytest.mark.alone("how long a request waits at most")
@pytest.mark.parametrize(("number", "slowest"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, DEAD_S)])
def test_a_worker_of_a_host_that_dies_or_hangs_is_found_and_replaced(
    regions: Regions, edge: ProxyDaemon, vms: dict[str, ScriptedVM], number: int, slowest: float
) -> None:
    (victim,) = regions["dfw"].workers()
    with SteadyLoad(edge, CLIENTS) as load:
        os.kill(victim, number)
        until(lambda: regions["dfw"].workers() not in ([], [victim]), "it is replaced", 15)
        used(vms["dfw"])
        load.more(50)
    assert len(load.lost) <= CLIENTS, load.lost
    assert load.slowest < slowest


def test_a_host_that_falls_silent_is_found_within_seconds_and_used_again_when_it_speaks(
    regions: Regions, edge: ProxyDaemon, vms: dict[str, ScriptedVM]
) -> None:
    """All its processes stand still: its kernel still takes connections, but nobody answers."""
    family = regions["dfw"].processes()
    before = repeated(edge)
    with SteadyLoad(edge, CLIENTS) as load:
        for pid in family:
            stand_still(pid)
        try:
            until(lambda: repeated(edge) > before, "what waits for it is sent elsewhere", DEAD_S)
            load.more(200)
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)
        used(vms["dfw"])
    assert not load.lost, load.lost
    assert load.slowest < DEAD_S


@pytest.mark.parametrize("name", ["yyz", *WORKERS])
@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "new connections"])
def test_reloads_of_either_side_lose_no_request(regions: Regions, edge: ProxyDaemon, name: str, keep: bool) -> None:
    before = set(regions[name].workers())
    with SteadyLoad(edge, CLIENTS, keep) as load:
        for _ in range(2):
            regions[name].ctl("reload", "--workers")
            load.more(100)
    load.assert_nothing_lost()
    until(lambda: before.isdisjoint(regions[name].workers()), "the old workers are gone")


@pytest.mark.parametrize("name", ["yyz", "dfw"])
@pytest.mark.parametrize("role", ["state", "control"])
def test_traffic_needs_neither_state_nor_control_of_either_side(
    regions: Regions, edge: ProxyDaemon, vms: dict[str, ScriptedVM], name: str, role: str
) -> None:
    victim = regions[name].status()[role]["pid"]
    with SteadyLoad(edge, CLIENTS) as load:
        os.kill(victim, signal.SIGKILL)
        load.more(200)
        until(lambda: regions[name].status()[role]["state"] == "ready", "it is back")
        used(vms["dfw"])
        load.more(50)
    load.assert_nothing_lost()
