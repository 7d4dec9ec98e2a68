"""Every deadline: slow heads, slow bodies, silent VMs, clients that stop reading, idle connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

SHORT = {
    "head": "600ms",
    "body_idle": "700ms",
    "keepalive": "500ms",
    "connect": "300ms",
    "response_head": "600ms",
    "write_stall": "800ms",
    "upstream_idle": "500ms",
    "tunnel_idle": "1s",
    "queue": "400ms",
}


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    started = start_daemon({"http": {"port": 80}, "tcp": {"port": 7001}}, timeouts=SHORT, limits={"body_rate": 5000})
    started.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    return started


def trickle(client: RawClient, data: bytes, every: float = 0.05) -> Callable[[], None]:
    """Sends byte after byte until told to stop or the connection ends."""
    stop = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):
            for byte in data:
                if stop.wait(every):
                    return
                client.send(bytes([byte]))

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def assert_between(start: float, least: float, most: float = 5.0) -> None:
    took = time.monotonic() - start
    assert least <= took <= most, f"{took:.2f} s"


def test_slow_head_meets_an_absolute_deadline(client: RawClient) -> None:
    start = time.monotonic()
    end = trickle(client, b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX: " + b"x" * 1000)
    got = client.response()
    assert (got.status, got.error) == (408, "PH05")
    assert_between(start, 0.5)
    client.assert_closed()
    end()


def test_slow_head_after_a_served_request(client: RawClient) -> None:
    assert client.get().status == 200
    end = trickle(client, b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX: " + b"x" * 1000)
    got = client.response()
    assert (got.status, got.error) == (408, "PH05")
    end()


def test_body_that_stops_is_given_up(client: RawClient, vm: ScriptedVM, marker: str) -> None:
    start = time.monotonic()
    client.send(f"POST /{marker} HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 100\r\n\r\nabc".encode())
    got = client.response()
    assert (got.status, got.error) == (408, "PH06")
    assert_between(start, 0.5)
    client.assert_closed()
    assert not any(seen.complete for seen in vm.seen(marker))


def test_body_below_the_minimum_rate_is_given_up(client: RawClient, vm: ScriptedVM, marker: str) -> None:
    client.send(f"POST /{marker} HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 100000\r\n\r\n".encode())
    end = trickle(client, b"x" * 1000)
    got = client.response()
    assert (got.status, got.error) == (408, "PH06")
    client.assert_closed()
    end()
    assert not any(seen.complete for seen in vm.seen(marker))


def test_body_above_the_minimum_rate_may_take_long(client: RawClient) -> None:
    """Longer than body_idle in all, but never that long without a byte."""
    client.send(b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 20000\r\n\r\n")
    for _ in range(20):
        client.send(b"x" * 1000)
        client.silent(0.08)
    assert client.response().body == b"x" * 20000


@pytest.mark.parametrize("served", [0, 1], ids=["fresh", "after a request"])
def test_idle_client_is_closed(client: RawClient, served: int) -> None:
    for _ in range(served):
        assert client.get().status == 200
    start = time.monotonic()
    left = client.rest()
    assert left == b"" or (not served and left.startswith(b"HTTP/1.1 408"))
    assert_between(start, 0.3)


def test_silent_vm_is_504(client: RawClient, vm: ScriptedVM) -> None:
    gone = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.wait_end()
        gone.set()
        return CLOSE

    start = time.monotonic()
    client.request("POST", vm.route(script), body=b"x")
    got = client.response()
    assert (got.status, got.error) == (504, "PU05")
    assert_between(start, 0.5)
    assert gone.wait(5), "the VM's connection is closed with it"


def test_vm_head_that_trickles_is_504(client: RawClient, vm: ScriptedVM) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000:
            if conn.ended.wait(0.05):
                break
            conn.send(bytes([byte]))
        return CLOSE

    client.request("POST", vm.route(script), body=b"x")
    got = client.response()
    assert (got.status, got.error) == (504, "PU05")


def test_vm_body_that_stops_is_cut(client: RawClient, vm: ScriptedVM) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        conn.wait_end()
        return CLOSE

    got = client.get(vm.route(script))
    assert (got.status, got.complete, got.body) == (200, False, b"abc")


def test_response_head_deadline_begins_when_the_request_is_whole(client: RawClient) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 10000\r\n\r\n")
    for _ in range(10):
        client.send(b"x" * 1000)
        client.silent(0.1)  # 1 s in all: longer than response_head
    assert client.response().status == 200


@pytest.fixture
def blackhole() -> Iterator[int]:
    """A port on which connects are neither taken nor refused: its accept queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


def test_connect_timeout_is_504(daemon: ProxyDaemon, client: RawClient, blackhole: int) -> None:
    daemon.add_app("hole", machines=[f"127.0.0.1:{blackhole}"], hostnames=["hole.localhost"])
    start = time.monotonic()
    got = client.get(host="hole.localhost")
    assert (got.status, got.error) == (504, "PC05")
    assert_between(start, 0.25)


def test_connect_timeout_passes_to_another_machine(
    daemon: ProxyDaemon, client: RawClient, vm: ScriptedVM, blackhole: int
) -> None:
    daemon.add_app("halfhole", machines=[f"127.0.0.1:{blackhole}", vm.address], hostnames=["halfhole.localhost"])
    assert [client.get(host="halfhole.localhost").status for _ in range(6)] == [200] * 6


def test_client_that_stops_reading_is_cut_and_the_vm_with_it(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    gone = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                conn.send(bytes(65536))
        except OSError:
            gone.set()
        return CLOSE

    before = daemon.metric("flyproxy_errors_total", code="PD02")
    with daemon.client(rcvbuf=4096) as client:
        client.request(target=vm.route(script))
        assert gone.wait(10)
        assert daemon.metric("flyproxy_errors_total", code="PD02") == before + 1


def test_idle_pooled_connection_is_closed(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    assert client.get(f"/{marker}").status == 200
    connection = vm.connections[vm.wait_seen(marker).connection]
    start = time.monotonic()
    assert connection.ended.wait(5)
    assert_between(start, 0.2)


def test_idle_tunnel_is_closed_and_a_busy_one_is_not(daemon: ProxyDaemon, start_vm: Callable[..., ScriptedVM]) -> None:
    def echo(conn: VMConnection) -> None:
        while data := conn.recv():
            conn.send(data)

    daemon.add_app(
        "tcp", "[[services]]\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n", [start_vm(echo).address]
    )
    with daemon.client("tcp") as busy, daemon.client("tcp") as idle:
        idle.send(b"x")
        assert idle.exactly(1) == b"x"
        start = time.monotonic()
        closed = threading.Thread(target=idle.assert_closed)
        closed.start()
        while closed.is_alive():
            busy.send(b"y")
            assert busy.exactly(1) == b"y"
            closed.join(0.1)
        assert_between(start, 0.8)


def test_queue_at_the_hard_limit_times_out(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    daemon.add_app(
        "full",
        '[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "requests"\n'
        "soft_limit = 1\nhard_limit = 1\n",
        [vm.address],
        ["full.localhost"],
    )
    held, go = threading.Event(), threading.Event()

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n..")
        held.set()
        go.wait(5)
        conn.send(b"..")

    with daemon.client() as holder:
        holder.request(target=vm.route(script), host="full.localhost")
        assert held.wait(10)
        start = time.monotonic()
        got = client.get(host="full.localhost")
        assert (got.status, got.error, got.header("retry-after")) == (503, "PR06", "1")
        assert_between(start, 0.35)
        go.set()
        assert holder.response().body == b"...."
    assert client.get(host="full.localhost").status == 200


def test_ports_own_timeouts_win(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    daemon.add_app(
        "slow",
        '[[services]]\ninternal_port = 8080\n[[services.ports]]\nport = 80\nhandlers = ["http"]\n'
        "[services.ports.http_options]\nidle_timeout = 2\n",
        [vm.address],
        ["slow.localhost"],
    )
    assert client.get(host="slow.localhost").status == 200
    assert client.silent(1.0), "longer than the proxy's own keepalive of 0.5 s"
    assert client.get(host="slow.localhost").status == 200


def test_deadlines_leave_nothing_behind(daemon: ProxyDaemon) -> None:
    """After all of the above no machine counts work and no client connection is held but ours."""
    until(lambda: all(machine["in_flight"] == 0 for machine in daemon.ctl("machines", "list")), "nothing is in flight")
    until(lambda: daemon.metric("flyproxy_connections", side="client") == 0, "no client connection is left")
