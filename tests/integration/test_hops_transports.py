"""Transports between two proxies: when there is one, when there are more, and what their riders do to each other."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.deployed import StartVM, counting_vms, wait_busy
from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.region import Regions
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

ROLES = {"yyz": ["edge"], "dfw": ["worker"]}
CROWDED = 64  # streams on a transport from which another one is opened
SLOTS = 4
STREAMS = 4
TRANSPORTS = 16  # of one worker to one host
IDLE_S = 2.5
HUGE = 256 << 20  # bytes of an answer that nobody reads to its end
AT_ONCE_S = 1.0
Start = Callable[..., Regions]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts the edge yyz-1 and the worker host dfw-1; they end with the module."""
    made: list[Regions] = []

    def one(slots: int = 1, limits: dict[str, str] | None = None, **backhaul: Any) -> Regions:
        settings: dict[str, Any] = {"workers": {"count": 1, "slots": slots}, "limits": limits or {}}
        regions = Regions("yyz", "dfw", roles=ROLES, backhaul=backhaul, allowed=["mesh-not-direct"], **settings)
        regions.start().meet()
        made.append(regions)
        return regions

    yield one
    for regions in made:
        regions.stop()


@pytest.fixture(scope="module")
def plain(start: Start, vm: ScriptedVM) -> Regions:
    """With one backhaul port and the app "web" on ``vm``."""
    regions = start(idle=f"{IDLE_S:g}s")
    regions.add_app("web", {"dfw": [vm.address]}, hostnames=["web.localhost"])
    return regions


@pytest.fixture
def vms() -> Iterator[StartVM]:
    with counting_vms() as made:
        yield made


def counted(regions: Regions, what: str) -> tuple[int, int]:
    """The gauge flyproxy_backhaul_WHAT of the edge and of the worker host."""
    edge, far = (regions[name].metric(f"flyproxy_backhaul_{what}") for name in ("yyz", "dfw"))
    return int(edge), int(far)


def wait_counted(regions: Regions, what: str, count: int, patience: float = 10.0) -> None:
    until(lambda: counted(regions, what) == (count, count), f"both sides have {count} {what}", patience)


def asking(regions: Regions, app: str, count: int) -> list[RawClient]:
    """So many requests under way, each on a connection of its own."""
    clients = [regions["yyz"].client(timeout=30) for _ in range(count)]
    for client in clients:
        client.request(host=f"{app}.localhost")
    return clients


def answered(clients: list[RawClient]) -> None:
    for client in clients:
        assert client.response().status == 200
        client.sock.close()


# -- its life


def test_a_transport_is_built_for_the_first_request_serves_all_and_ends_when_it_is_idle(plain: Regions) -> None:
    for _ in range(2):
        wait_counted(plain, "transports", 0)
        for _ in range(5):
            answered(asking(plain, "web", 4))
        wait_counted(plain, "transports", 1)
        begun = time.monotonic()
        wait_counted(plain, "transports", 0)
        assert IDLE_S - 0.5 < time.monotonic() - begun < IDLE_S + 2.5


def test_a_transport_with_a_rider_is_not_idle(plain: Regions, vms: StartVM) -> None:
    vm = vms("thinks", hold=True)
    plain.add_app("thinks", {"dfw": [vm.address]}, hostnames=["thinks.localhost"])
    clients = asking(plain, "thinks", 1)
    vm.wait_busy(1)
    assert clients[0].silent(2 * IDLE_S + 0.5)
    assert counted(plain, "transports") == (1, 1)
    vm.answer()
    answered(clients)


def test_a_crowd_is_spread_over_more_transports_up_to_one_for_each_port(start: Start, vms: StartVM) -> None:
    regions, vm = start(SLOTS), vms("crowd", hold=True)
    regions.add_app("crowd", {"dfw": [vm.address]}, hostnames=["crowd.localhost"])
    few = asking(regions, "crowd", CROWDED // 2)
    wait_busy([vm], CROWDED // 2)
    wait_counted(regions, "transports", 1)
    many = asking(regions, "crowd", 2 * CROWDED * SLOTS)
    wait_busy([vm], len(few) + len(many))
    wait_counted(regions, "transports", SLOTS)
    vm.release()
    answered(few + many)


def test_more_requests_than_streams_are_allowed_wait_for_their_turn(start: Start, vms: StartVM) -> None:
    regions, vm = start(2, streams=STREAMS), vms("narrow", think=0.05)
    regions.add_app("narrow", {"dfw": [vm.address]}, hostnames=["narrow.localhost"])
    for _ in range(2):
        answered(asking(regions, "narrow", 25 * STREAMS))
    assert 0 < vm.most_busy <= TRANSPORTS * STREAMS
    assert len(vm.seen) == 50 * STREAMS, "and none is sent twice"
    assert regions["yyz"].metric("flyproxy_limit_reached_total", limit="streams") > 0


# -- its riders


def flood(conn: VMConnection, seen: Seen) -> str:
    """An answer that never ends within a test."""
    conn.send(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n".encode())
    block = bytes(1 << 20)
    for _ in range(HUGE >> 20):
        conn.send(block)
    return CLOSE


def stalled(regions: Regions, path: str, count: int) -> list[RawClient]:
    """Clients that have asked for a flood and do not read; everything between has filled up."""
    clients = [regions["yyz"].client(rcvbuf=4096) for _ in range(count)]
    for client in clients:
        client.request(target=path)
        assert client.exactly(15) == b"HTTP/1.1 200 OK"
    return clients


def memory(daemon: ProxyDaemon) -> float:
    return daemon.metric("flyproxy_worker_memory_bytes")


def steady(read: Callable[[], float]) -> float:
    """The value once it stays the same over a few looks."""
    seen: list[float] = []

    def settled() -> bool:
        seen.append(read())
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    until(settled, "it stays the same", every=0.1)
    return seen[-1]


def test_a_reader_that_stalls_holds_little_memory_and_slows_nobody(plain: Regions, vm: ScriptedVM) -> None:
    edge, far = plain["yyz"], plain["dfw"]
    readers = 10

    def ask(client: RawClient) -> float:
        begun = time.monotonic()
        assert client.get().status == 200
        return time.monotonic() - begun

    with edge.client() as client:
        alone = statistics.median(ask(client) for _ in range(200))
        before = memory(edge), memory(far)
        clients = stalled(plain, vm.route(flood), readers)
        held = steady(lambda: memory(edge)) - before[0], steady(lambda: memory(far)) - before[1]
        beside = statistics.median(ask(client) for _ in range(200))
        for one in clients:
            one.reset()
    # The window grew while the client's kernel took what came; then it stood.
    assert max(held) < readers * (4 << 20), "a window and a buffer each, of an answer of 256 MiB"
    assert beside < alone + 0.1, f"{beside * 1e3:.2f} ms beside them, {alone * 1e3:.2f} ms alone"
    wait_counted(plain, "streams", 0)


def test_what_all_windows_have_grown_is_bounded_and_leaves_room_for_others(start: Start, vm: ScriptedVM) -> None:
    """Readers that are fast at first, so that their windows grow, and then stall. A quarter of `memory` is for them."""
    limit, readers = 16 << 20, 30
    regions = start(limits={"memory": f"{limit >> 20}MiB"})
    regions.add_app("web", {"dfw": [vm.address]}, hostnames=["web.localhost"])
    edge, path = regions["yyz"], vm.route(flood)
    before = memory(edge)
    clients = [edge.client() for _ in range(readers)]
    for client in clients:
        client.request(target=path)
        assert client.exactly(4 << 20).startswith(b"HTTP/1.1 200")
    assert edge.metric("flyproxy_limit_reached_total", limit="windows") > 0
    held = steady(lambda: memory(edge)) - before
    assert held < limit
    with edge.client() as client:
        assert client.get().status == 200
    for one in clients:
        one.reset()
    wait_counted(regions, "streams", 0)


def test_a_stalled_rider_does_not_hold_up_a_large_answer(plain: Regions, vm: ScriptedVM) -> None:
    """The window of the connection is not used up by those who do not read."""
    body = bytes(8 << 20)
    large = vm.route(lambda conn, seen: conn.reply(body))
    clients = stalled(plain, vm.route(flood), 10)
    with plain["yyz"].client() as client:
        assert client.get(large).body == body
    for one in clients:
        one.reset()
    wait_counted(plain, "streams", 0)


def test_a_client_that_leaves_ends_its_stream_and_the_machine_s_work_at_once(plain: Regions, vm: ScriptedVM) -> None:
    ended = threading.Event()

    def work(conn: VMConnection, seen: Seen) -> str:
        conn.wait_end()
        ended.set()
        return CLOSE

    path = vm.route(work)
    with plain["yyz"].client() as client:
        client.request(target=path)
        vm.wait_seen(path)
        wait_counted(plain, "streams", 1)
        client.reset()
        assert ended.wait(AT_ONCE_S)
        wait_counted(plain, "streams", 0)
