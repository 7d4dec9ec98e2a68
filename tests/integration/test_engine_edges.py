"""Corners of the engine where bytes, ends and limits meet: what must not hang, leak, repeat or be cut there."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

WEB = '[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "requests"\n'
TCP = '[[services]]\nprotocol = "tcp"\ninternal_port = 7000\n[[services.ports]]\nport = 7001\n'
LITTLE = 2048  # bytes: a VM that takes next to nothing until it reads


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    started = start_daemon(
        {"http": {"port": 80}, "tcp": {"port": 7001}},
        limits={"head": "512KiB", "buffer": "16MiB"},
        timeouts={"response_head": "1500ms", "write_stall": "700ms", "body_idle": "1s"},
    )
    started.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    return started


@pytest.fixture
def narrow(start_vm: Callable[..., ScriptedVM]) -> Callable[..., ScriptedVM]:
    """Starts VMs towards which little fits into the kernel: small segments keep the proxy's send buffer small."""

    def start(on_connect: Callable[[VMConnection], object]) -> ScriptedVM:
        started = start_vm(on_connect, name="narrow")
        started.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        started.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        return started

    return start


def app(daemon: ProxyDaemon, machine: ScriptedVM, toml: str = WEB) -> str:
    """A new app on one VM; its host name."""
    name = "e" + os.urandom(4).hex()
    daemon.add_app(name, toml, [machine.address], [f"{name}.localhost"])
    return f"{name}.localhost"


# -- a request that the VM does not take


@pytest.mark.one_host("the head is larger than a transport takes")
def test_vm_that_takes_only_half_a_head_is_504(daemon: ProxyDaemon, narrow: Callable[..., ScriptedVM]) -> None:
    host = app(daemon, narrow(lambda conn: conn.ended.wait(10)))
    with daemon.client() as client:
        got = client.get(host=host, headers=f"X-Long: {'x' * 400_000}\r\n")
        assert (got.status, got.error) == (504, "PU05")


@pytest.mark.one_host("the head is larger than a transport takes")
def test_connection_with_half_a_head_in_it_is_never_reused(
    daemon: ProxyDaemon, narrow: Callable[..., ScriptedVM], marker: str
) -> None:
    """The VM answers before it has read the head, and would take the next head for the rest of the first."""
    firsts: list[bytes] = []

    def on_connect(conn: VMConnection) -> None:
        if firsts:
            conn.head()
            conn.reply(b"second")
            return
        firsts.append(b"")
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
        answered.wait(10)
        firsts[0] = conn.rest()

    answered = threading.Event()
    host = app(daemon, narrow(on_connect))
    with daemon.client() as client:
        assert client.get(host=host, headers=f"X-Long: {'x' * 400_000}\r\n").body == b"first"
    with daemon.client() as client:
        client.request(target=f"/{marker}", host=host)
        answered.set()
        assert client.response().body == b"second"
    until(lambda: firsts[0], "the first connection ends")
    assert marker.encode() not in firsts[0]


def test_last_body_bytes_arrive_although_the_answer_has_begun(
    daemon: ProxyDaemon, narrow: Callable[..., ScriptedVM]
) -> None:
    """The VM answers its head at once and reads the body later; the tail of it waits in the proxy by then."""
    body = os.urandom(60_000)
    sent = threading.Event()

    def on_connect(conn: VMConnection) -> None:
        seen = conn.head()
        assert seen
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent.wait(10)
        n = len(conn.body(seen)) if seen else 0
        conn.send(b"6\r\n%06d\r\n0\r\n\r\n" % n)

    host = app(daemon, narrow(on_connect))
    with daemon.client(timeout=5) as client:
        head = f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        client.send(head)
        assert client.head().status == 200
        client.send(b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        sent.set()
        assert client.rest().startswith(b"6\r\n060000\r\n")


# -- ends of clients


def test_client_that_ends_behind_a_pipelined_request_with_body_gets_both_answers(
    vm: ScriptedVM, client: RawClient
) -> None:
    ended = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        ended.wait(10)
        conn.reply(b"first")

    get = f"GET {vm.route(script)} HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
    client.send(get.encode() + b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 6\r\n\r\nsecond")
    client.end()
    vm.wait_seen(get.split()[1])
    ended.set()
    assert client.response().body == b"first"
    assert client.response().body == b"second"
    client.assert_closed()


@pytest.mark.one_host("the client's end may overtake its request, which the VM never sees then")
def test_client_that_ended_while_its_upload_waited_has_left_once_it_is_sent(
    daemon: ProxyDaemon, vm: ScriptedVM
) -> None:
    """Its end has been announced before the body is read; nothing announces it again."""
    host = app(daemon, vm, WEB + "soft_limit = 1\nhard_limit = 1\n")
    held, go, gone = threading.Event(), threading.Event(), threading.Event()

    def hold(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        held.set()
        go.wait(10)
        conn.reply()

    def upload(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.wait_end()
        gone.set()
        return CLOSE

    with daemon.client() as holder, daemon.client() as client:
        holder.request(target=vm.route(hold), host=host)
        assert held.wait(10)
        client.request("POST", vm.route(upload), host=host, body=b"x" * 30_000)
        client.end()
        assert client.silent(0.2)
        go.set()
        assert gone.wait(1)


def test_end_of_a_client_before_the_101_reaches_the_vm_through_the_tunnel(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    host = app(daemon, vm, "[http_service]\ninternal_port = 8080\nhalf_close = true\n")
    ended = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        ended.wait(10)
        conn.ended.wait(0.1)
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        conn.wait_end()
        conn.send(b"bye")
        return CLOSE

    with daemon.client(timeout=5) as client:
        client.request(target=vm.route(script), host=host, headers="Connection: Upgrade\r\nUpgrade: echo\r\n")
        client.end()
        ended.set()
        assert client.response().status == 101
        assert client.rest() == b"bye"


def test_reset_of_a_relays_client_reaches_a_vm_that_reads_nothing(
    daemon: ProxyDaemon, start_vm: Callable[..., ScriptedVM]
) -> None:
    connected, done = threading.Event(), threading.Event()

    def on_connect(conn: VMConnection) -> None:
        connected.set()
        done.wait(20)

    name = "r" + os.urandom(4).hex()
    deaf = start_vm(on_connect)
    daemon.add_app(name, TCP, [deaf.address])
    try:
        with daemon.client("tcp") as client:
            assert connected.wait(10)
            client.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                while True:
                    client.send(b"x" * 65536)
            client.reset()
            until(lambda: not daemon.metric("fly_app_concurrency", app=name), "the relay is given up", 3, 0.1)
    finally:
        done.set()
        daemon.ctl("apps", "remove", name, "--yes")


# -- ends of VMs


def test_answer_that_breaks_off_does_not_take_the_one_before_it_away(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    """The first answer is still on its way to a slow client when the second one breaks; the client goes on sending."""
    broke = threading.Event()
    body = os.urandom(150_000)

    def cut(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
        conn.end()
        conn.wait_end()
        broke.set()
        return CLOSE

    def whole(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.reply(body)

    get = "GET {} HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
    with daemon.client(rcvbuf=4096) as client:
        client.send((get.format(vm.route(whole)) + get.format(vm.route(cut))).encode())
        assert broke.wait(10)
        client.send(get.format("/").encode())
        assert client.response().body == body
        got = client.response()
        assert (got.complete, got.body) == (False, b"x" * 500)
        client.assert_closed()


# -- bodies and deadlines


def test_upload_that_had_to_queue_is_not_taken_for_a_slow_one(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    """Longer in the queue than a body may pause."""
    host = app(daemon, vm, WEB + "soft_limit = 1\nhard_limit = 1\n")
    held, go, begun = threading.Event(), threading.Event(), threading.Event()

    def hold(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        held.set()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        go.wait(10)
        conn.send(b"ok")

    def upload(conn: VMConnection, seen: Seen) -> None:
        begun.set()
        conn.reply(bytes(conn.body(seen)))

    with daemon.client() as holder, daemon.client() as client:
        holder.request(target=vm.route(hold), host=host)
        assert held.wait(10)
        client.send(f"POST {vm.route(upload)} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\n".encode())
        assert client.silent(1.3)
        go.set()
        assert begun.wait(10)
        assert client.silent(0.2)
        client.send(b"body")
        assert client.response().body == b"body"


def test_client_that_waits_for_a_late_100_is_not_slow(vm: ScriptedVM, client: RawClient) -> None:
    """Longer than a body may pause: until the VM has said 100 the client owes nothing."""

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.ended.wait(1.25)
        conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        conn.reply(bytes(conn.body(seen)))

    client.send(
        f"POST {vm.route(script)} HTTP/1.1\r\nHost: web.localhost\r\nExpect: 100-continue\r\n"
        "Content-Length: 4\r\n\r\n".encode()
    )
    assert client.head().status == 100
    client.send(b"body")
    assert client.response().body == b"body"


def test_vm_that_never_says_100_is_504(vm: ScriptedVM, client: RawClient) -> None:
    client.send(
        f"POST {vm.route(lambda conn, _: conn.ended.wait(10))} HTTP/1.1\r\nHost: web.localhost\r\n"
        "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode()
    )
    got = client.response()
    assert (got.status, got.error) == (504, "PU05")


def test_vm_that_trickles_does_not_prolong_a_client_that_stopped_reading(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    began = threading.Event()
    seconds: list[float] = []

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400000\r\n" + b"x" * (4 << 20) + b"\r\n")
        began.set()
        start = time.monotonic()
        try:
            while time.monotonic() < start + 6:
                conn.send(b"1\r\ny\r\n")
                conn.ended.wait(0.05)
        finally:
            seconds.append(time.monotonic() - start)
        return CLOSE

    with daemon.client(rcvbuf=4096) as client:
        client.request(target=vm.route(script))
        assert began.wait(10)
        until(lambda: seconds, "the VM's connection ends")
    assert seconds[0] < 4


def test_the_largest_buffer_that_settings_allow_can_be_filled(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    sent = threading.Event()
    piece = os.urandom(1 << 16)

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(160):
            conn.send(b"10000\r\n" + piece + b"\r\n")
        conn.send(b"0\r\n\r\n")
        sent.set()
        return CLOSE

    with daemon.client(rcvbuf=4096) as client:
        client.request(target=vm.route(script))
        assert sent.wait(10)
        got = client.response()
    assert got.complete
    assert got.body == piece * 160


# -- repetitions


def test_post_that_the_app_has_read_is_not_repeated_even_when_no_acknowledgement_came(
    start_vm: Callable[..., ScriptedVM], daemon: ProxyDaemon, marker: str
) -> None:
    """On a connection that has answered before, the VM's kernel delays its acknowledgements; a reset overtakes them."""

    def on_connect(conn: VMConnection) -> None:
        first = True
        while seen := conn.head():
            conn.body(seen)
            if not first:
                conn.reset()
                return
            conn.reply()
            first = False

    payer = start_vm(on_connect, name="payer")
    host = app(daemon, payer)
    for number in range(8):
        with daemon.client() as client:
            assert client.get(host=host).status == 200
            client.request("POST", f"/{marker}-{number}.", host=host, body=b"pay 5")
            assert client.response().status == 502
        assert len(payer.seen(f"{marker}-{number}.")) == 1


def test_upload_is_repeated_whole_or_not_at_all(start_vm: Callable[..., ScriptedVM], daemon: ProxyDaemon) -> None:
    """The VM closes behind each answer; a next request may be half sent into that. PUT may be repeated."""

    def on_connect(conn: VMConnection) -> None:
        seen = conn.head()
        assert seen
        conn.reply(bytes(conn.body(seen)))

    host = app(daemon, start_vm(on_connect, name="closer"))
    statuses = []
    for _ in range(20):
        with daemon.client(timeout=5) as client:
            for _ in range(10):
                body = os.urandom(40_000)
                client.request("PUT", host=host, body=body)
                got = client.response()
                statuses.append(got.status)
                assert (got.status, got.error) == (502, "PC03") or got.body == body
                if got.header("connection") == "close":
                    break
    assert 200 in statuses
