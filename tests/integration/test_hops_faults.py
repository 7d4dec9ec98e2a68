"""Two hosts when things go wrong between them: no request is lost, doubled, cut short unseen or left hanging."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flyproxy._speedups import _testing_backhaul as backhaul
from flyproxy._speedups.shm.closeness import Closeness
from tests.kit.bulk import MEMFD, View
from tests.kit.daemon import free_port
from tests.kit.region import halted, role_of
from tests.kit.twohops import ADDRESS, EDGE, FAR, TwoHops
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import stand_still, until

STREAMS = 8
VIA, VIA_ADDRESS = "via-1", "127.0.0.23"
UPGRADE = "Connection: Upgrade\r\nUpgrade: echo\r\n"
LARGE = os.urandom(300_000)


@pytest.fixture
def hops() -> Iterator[Callable[..., TwoHops]]:
    """Starts two hosts; each must end cleanly."""
    running: list[TwoHops] = []

    def start(**settings: Any) -> TwoHops:
        table = {"workers": {"count": 1, "slots": 1}, **settings}
        running.append(TwoHops(allowed=["exited", "respawn", "mesh-not-direct"], **table))
        running[-1].start()
        return running[-1]

    yield start
    for daemon in running:
        daemon.stop()


@pytest.fixture(scope="module")
def pair(vm: ScriptedVM) -> Iterator[TwoHops]:
    daemon = TwoHops(workers={"count": 1, "slots": 1}, limits={"trailers": "256KiB"})
    daemon.start()
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    yield daemon
    daemon.stop()


def echo(conn: VMConnection, _: Seen) -> str:
    conn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    while data := conn.recv():
        conn.send(data)
    return CLOSE


# -- what may be repeated


def test_a_large_upload_reaches_the_app_whole_or_not_at_all(hops: Callable[..., TwoHops], vm: ScriptedVM) -> None:
    """Of two machines one refuses: what was sent towards it is gone, and the rest alone is no request."""
    daemon = hops()
    daemon.add_app("web", machines=[f"127.0.0.1:{free_port()}", vm.address], hostnames=["web.localhost"])
    body = b"whole" + LARGE
    for _ in range(6):
        with daemon.client() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            client.try_send(body)
            got = client.response()
            assert (got.status, got.error, got.body == body) in ((200, None, True), (502, "PC01", False))
    assert all(seen.body == body for seen in vm.requests if seen.method == "POST")


@pytest.mark.parametrize("late", [0, 3_000, 15_000])
def test_a_small_upload_finds_the_machine_that_works(hops: Callable[..., TwoHops], vm: ScriptedVM, late: int) -> None:
    """Even if it has been on its way to the other one."""
    daemon = hops()
    machines = [vm.address, *(f"127.0.0.1:{free_port()}" for _ in range(2))]
    daemon.add_app("web", machines=machines, hostnames=["web.localhost"])
    body = os.urandom(200) + bytes(late)
    with daemon.client() as client:
        assert client.get().status == 200
        for _ in range(4):
            with halted(daemon.far.workers()[0]):
                head = b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                client.send(head + body[:200])
                time.sleep(0.1)  # the head goes its way alone
                client.send(body[200:])
                time.sleep(0.1)
            got = client.response()
            assert (got.status, got.error, got.body) == (200, None, body)


# -- answers


@pytest.mark.parametrize("answer", ["204 No Content", "200 OK\r\nContent-Length: 0", "200 OK\r\nContent-Length: 2"])
def test_an_upgrade_that_the_vm_answers_like_any_request(pair: TwoHops, vm: ScriptedVM, answer: str) -> None:
    def script(conn: VMConnection, _: Seen) -> str:
        conn.send(f"HTTP/1.1 {answer}\r\n\r\n".encode() + b"ok"[: 2 * answer.endswith("2")])
        return CLOSE

    with pair.client() as client:
        client.send(f"GET {vm.route(script)} HTTP/1.1\r\nHost: web.localhost\r\n{UPGRADE}\r\n".encode())
        got = client.response()
        assert (got.status, got.body, got.complete) == (int(answer[:3]), b"ok"[: 2 * answer.endswith("2")], True)
        if got.status == 204:
            assert got.header("transfer-encoding") is None
        if got.header("connection") != "close":
            assert client.get().status == 200


@pytest.mark.parametrize("line", ["200 ", "200", "200  Two  spaces ", "200 \t", "200 caf\xe9"])
def test_any_reason_phrase_crosses(pair: TwoHops, vm: ScriptedVM, line: str) -> None:
    path = vm.answer(f"HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok".encode("latin-1"))
    with pair.client() as client:
        got = client.get(path)
    assert (got.status, got.body) == (200, b"ok")


@pytest.mark.parametrize("size", [100, 12_000, 100_000, 200_000])
def test_an_answer_ends_whatever_the_size_of_its_trailers(pair: TwoHops, vm: ScriptedVM, size: int) -> None:
    lines = b"".join(b"X-T%d: %b\r\n" % (n, b"t" * 990) for n in range(size // 1000 + 1))
    path = vm.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + lines + b"\r\n")
    with pair.client(timeout=5) as client:
        got = client.get(path, headers="TE: trailers\r\n")
    assert (got.status, got.body, got.complete) == (200, b"ok", True)


# -- transports come and go


def test_requests_go_on_beside_a_tunnel_that_outlives_a_reload(hops: Callable[..., TwoHops], vm: ScriptedVM) -> None:
    daemon = hops()
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    with daemon.client() as tunnel:
        tunnel.send(f"GET {vm.route(echo)} HTTP/1.1\r\nHost: web.localhost\r\n{UPGRADE}\r\n".encode())
        assert tunnel.head().status == 101
        daemon.far.ctl("reload", "--workers")
        for _ in range(20):
            with daemon.client() as client:
                got = client.get()
                assert got.status == 200, got.error
            time.sleep(0.1)
        tunnel.send(b"still here")
        assert tunnel.exactly(10) == b"still here"


def test_no_request_fails_while_the_far_host_replaces_its_workers(hops: Callable[..., TwoHops], vm: ScriptedVM) -> None:
    daemon = hops()
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    stop = threading.Event()
    failed: list[object] = []

    def load() -> None:
        while not stop.is_set():
            with daemon.client() as client:
                client.request("POST", body=b"once")
                got = client.response()
                if (got.status, got.body) != (200, b"once"):
                    failed.append((got.status, got.error))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        daemon.far.ctl("reload", "--workers", "--wait-drained")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def test_more_requests_than_streams_wait_for_their_turn(hops: Callable[..., TwoHops], vm: ScriptedVM) -> None:
    daemon = hops(backhaul={"streams": STREAMS})
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])

    def slow(conn: VMConnection, seen: Seen) -> None:
        time.sleep(0.1)
        conn.reply(b"done")

    path = vm.route(slow)

    def get(_: int) -> tuple[int, str | None]:
        with daemon.client() as client:
            got = client.get(path)
            return got.status, got.error

    with ThreadPoolExecutor(5 * STREAMS) as pool:
        for _ in range(2):  # with no transport there yet, then with one
            assert set(pool.map(get, range(5 * STREAMS))) == {(200, None)}


# -- a transport that a test opens


class Peer:
    """A connection to the far host's backhaul port, from the edge's address, with a hello that is right."""

    def __init__(self, daemon: TwoHops, hello: bool = True) -> None:
        own, far = daemon.status(), daemon.far.status()
        port = far["backhaul"]["ports"][0]
        self.sock = socket.create_connection((ADDRESS[FAR], port), 10, (ADDRESS[EDGE], 0))
        self.hello = backhaul.hello_write(
            {
                "kind": 1, "hops": 0, "source": EDGE.encode(), "source_epoch": own["backhaul"]["epoch"],
                "dest": FAR.encode(), "dest_epoch": far["backhaul"]["epoch"], "dest_port": port,
                "time_ms": time.time_ns() // 1_000_000, "nonce": int.from_bytes(os.urandom(8)),
            },
            daemon.key,
        )  # fmt: skip
        if hello:
            self.sock.sendall(self.hello)
            assert self.sock.recv(8)[1] == 0

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def test_a_peer_that_leaves_at_its_hello_leaves_nothing_behind(pair: TwoHops) -> None:
    peer = Peer(pair, hello=False)
    before = pair.far.metric("flyproxy_backhaul_transports")
    with halted(pair.far.workers()[0]):
        peer.sock.sendall(peer.hello)
        peer.reset()
    time.sleep(1.5)  # transports are counted once a second
    assert pair.far.metric("flyproxy_backhaul_transports") == before


def test_a_peer_that_falls_silent_is_given_up_whenever_it_spoke_last(pair: TwoHops) -> None:
    peer = Peer(pair)
    time.sleep(0.1)  # our PING is out; what comes now is no answer to it
    peer.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    peer.sock.settimeout(12)
    while peer.sock.recv(4096):
        pass


# -- through a third host


@pytest.fixture(scope="module")
def relay(vm: ScriptedVM) -> Iterator[TwoHops]:
    """The edge reaches the machines' host only by way of a third one."""
    daemon = TwoHops(workers={"count": 1, "slots": 1}, allowed=["*"])
    third = daemon.further(VIA, VIA_ADDRESS)
    daemon.start()
    third.start()
    view = View(daemon.workers()[0])
    slot = until(lambda: {row["id"]: row["slot"] for row in view.table.hosts() if row["id"] == VIA}, "all", 20)[VIA]
    far = next(row["slot"] for row in view.table.hosts() if row["id"] == FAR)
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    newest = daemon.ctl("status")["revision"]
    until(lambda: third.status()["revision"] >= newest, "the third host knows the app", 20)
    control = role_of(daemon, "control")
    stand_still(control)
    fds = {
        os.readlink(link).removesuffix(" (deleted)").removeprefix(MEMFD): os.open(link, os.O_RDWR)
        for link in Path(f"/proc/{control}/fd").iterdir()
        if os.readlink(link).startswith(MEMFD)
    }
    closeness = Closeness(fds, True)
    closeness.set(far, "via", 1000, slot)
    yield daemon
    os.kill(control, signal.SIGCONT)
    for fd in fds.values():
        os.close(fd)
    third.stop()
    daemon.stop()


def test_a_slow_reader_gets_all_through_a_third_host(relay: TwoHops, vm: ScriptedVM) -> None:
    body = os.urandom(3_000_000)
    path = vm.route(lambda conn, seen: conn.reply(body))
    with relay.client(timeout=10, rcvbuf=4096) as client:
        client.request(target=path)
        time.sleep(1)
        got = client.response()
    assert got.body == body


def test_a_slow_app_gets_all_through_a_third_host(relay: TwoHops, vm: ScriptedVM) -> None:
    body = os.urandom(3_000_000)

    def script(conn: VMConnection, seen: Seen) -> None:
        time.sleep(1)
        conn.reply(b"%d" % len(conn.body(seen)))

    path = vm.route(script)
    with relay.client(timeout=10) as client:
        client.sock.settimeout(10)
        client.request("POST", path, body=body)
        assert client.response().body == b"%d" % len(body)


def test_a_tunnel_through_a_third_host_outlasts_a_pause(relay: TwoHops, vm: ScriptedVM) -> None:
    data = os.urandom(3_000_000)
    with relay.client(timeout=10, rcvbuf=4096) as client:
        client.send(f"GET {vm.route(echo)} HTTP/1.1\r\nHost: web.localhost\r\n{UPGRADE}\r\n".encode())
        assert client.head().status == 101
        writer = threading.Thread(target=client.send, args=(data,))
        writer.start()
        time.sleep(1)
        assert client.exactly(len(data)) == data
        writer.join()
