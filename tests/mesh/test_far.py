"""The relay that stands for a long way keeps what it promises; else no test that uses it would mean anything."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.kit.far import Far, Link
from tests.kit.wait import until

DELAY = 0.1
SOME = 64 << 20  # bytes; far more than fits into sockets
STALL = 0.3  # seconds in which nothing may come


class Server:
    """Takes connections one by one, in the test's own thread."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.address: tuple[str, int] = self.listener.getsockname()

    def accept(self) -> socket.socket:
        conn, self.peer = self.listener.accept()
        conn.settimeout(10)
        return conn


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.listener.close()


@contextlib.contextmanager
def pair(far: Far, server: Server, source: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection through the relay."""
    with socket.create_connection(far.address, 10, (source, 0)) as client, server.accept() as upstream:
        yield client, upstream


def exactly(sock: socket.socket, n: int) -> bytes:
    data = bytearray()
    while len(data) < n:
        got = sock.recv(min(1 << 20, n - len(data)))
        assert got, f"ended after {len(data)} bytes of {n}"
        data += got
    return bytes(data)


def silent(sock: socket.socket) -> bool:
    """Whether nothing comes, not even an end."""
    sock.settimeout(STALL)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False


def test_each_direction_takes_the_delay(server: Server) -> None:
    with Far(Link(server.address), delay=DELAY) as far, pair(far, server) as (client, upstream):
        for there, here in ((client, upstream), (upstream, client)):
            begun = time.monotonic()
            there.sendall(b"x")
            assert exactly(here, 1) == b"x" and time.monotonic() - begun >= DELAY


def test_what_is_sent_arrives_unchanged_and_the_way_is_not_narrow(server: Server) -> None:
    """One read a delay would take minutes; so would a window of a few hundred KB."""
    sent = os.urandom(1 << 20) * (SOME >> 20)
    with Far(Link(server.address), delay=DELAY) as far, pair(far, server) as (client, upstream):
        begun = time.monotonic()
        writer = threading.Thread(target=client.sendall, args=(sent,))
        writer.start()
        got = exactly(upstream, len(sent))
        took = time.monotonic() - begun
        writer.join()
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        assert DELAY <= took < 10
        assert far.counts()[:2] == (len(sent), 0)


def test_all_connections_share_the_rate_of_one_line(server: Server) -> None:
    half = os.urandom(1 << 20)
    with Far(Link(server.address), rate=20e6) as far, pair(far, server) as one, pair(far, server) as other:
        begun = time.monotonic()
        writers = [threading.Thread(target=client.sendall, args=(half,)) for client, _ in (one, other)]
        for writer in writers:
            writer.start()
        assert [exactly(upstream, len(half)) for _, upstream in (one, other)] == [half, half]
        assert time.monotonic() - begun >= 2 * len(half) / 20e6
        for writer in writers:
            writer.join()


def test_what_a_line_cannot_take_is_lost_of_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        link = Link(upstream.getsockname(), kind="udp")
        with Far(link, rate=1e4) as far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(100):
                client.sendto(bytes(100), far.address)
            until(lambda: far.counts().datagrams == 100, "all have come")
            assert 0 < far.counts().lost < 100


def test_an_end_travels_and_leaves_the_other_direction_open(server: Server) -> None:
    with Far(Link(server.address), delay=DELAY) as far, pair(far, server) as (client, upstream):
        begun = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert upstream.recv(1) == b"" and time.monotonic() - begun >= DELAY
        upstream.sendall(b"still here")
        assert exactly(client, 10) == b"still here"


def test_a_reset_travels(server: Server) -> None:
    with Far(Link(server.address), delay=DELAY) as far, pair(far, server) as (client, upstream):
        client.sendall(b"x")
        exactly(upstream, 1)
        begun = time.monotonic()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            upstream.recv(1)
        assert time.monotonic() - begun >= DELAY


def test_a_refused_connection_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nobody = gone.getsockname()
    with Far(Link(nobody), delay=DELAY) as far:
        client = socket.create_connection(far.address, 10)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)


def test_the_upstream_sees_the_client_s_own_address(server: Server) -> None:
    with Far(Link(server.address, ("127.0.1.9", 0))) as far, pair(far, server, "127.0.0.19"):
        assert server.peer[0] == "127.0.0.19" and far.address[0] == "127.0.1.9"


@pytest.mark.parametrize("direction", ["forward", "back"])
def test_a_cut_of_one_way_leaves_the_other_and_loses_no_byte(server: Server, direction: str) -> None:
    with Far(Link(server.address), delay=DELAY / 10) as far, pair(far, server) as ends:
        dead = ends if direction == "forward" else ends[::-1]
        alive = dead[::-1]
        dead[0].sendall(b"1")
        exactly(dead[1], 1)
        far.cut("forward" if direction == "forward" else "back")
        dead[0].sendall(b"2")
        alive[0].sendall(b"other way")
        assert exactly(alive[1], 9) == b"other way"
        assert silent(dead[1])
        dead[0].sendall(b"3")
        far.heal()
        assert exactly(dead[1], 2) == b"23"


def test_a_cut_stops_what_is_under_way(server: Server) -> None:
    with Far(Link(server.address), delay=DELAY) as far, pair(far, server) as (client, upstream):
        client.sendall(b"x")
        far.cut()
        assert silent(upstream)
        far.heal()
        assert exactly(upstream, 1) == b"x"


def test_while_the_way_is_cut_no_connection_gets_through(server: Server) -> None:
    with Far(Link(server.address)) as far:
        far.cut("back")
        with socket.create_connection(far.address, 10) as client:
            server.listener.settimeout(STALL)
            with pytest.raises(TimeoutError):
                server.accept()
            server.listener.settimeout(10)
            far.heal()
            with server.accept() as upstream:
                client.sendall(b"x")
                assert exactly(upstream, 1) == b"x"


def test_a_side_that_takes_nothing_stops_the_other(server: Server) -> None:
    with Far(Link(server.address), delay=DELAY) as far, pair(far, server) as (client, upstream):
        client.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += client.send(b"x" * (1 << 20))
                assert sent < 16 * SOME, "the relay holds without a bound"
        assert len(exactly(upstream, sent)) == sent


def test_many_connections_are_open_at_once(server: Server) -> None:
    with Far(Link(server.address), delay=DELAY) as far, contextlib.ExitStack() as stack:
        ends = [stack.enter_context(pair(far, server)) for _ in range(200)]
        begun = time.monotonic()
        for number, (client, _) in enumerate(ends):
            client.sendall(struct.pack("!I", number))
        assert [struct.unpack("!I", exactly(upstream, 4))[0] for _, upstream in ends] == list(range(200))
        assert time.monotonic() - begun < 100 * DELAY, "they wait beside each other, not one after the other"


# -- datagrams


@contextlib.contextmanager
def udp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets: the client's, and the upstream's bound one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as upstream:
        upstream.bind(("127.0.0.1", 0))
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for sock in (client, upstream):
            sock.settimeout(10)
        yield client, upstream


def arrived(loss: float, seed: int, count: int = 1000) -> set[int]:
    """Which of ``count`` datagrams got through, and came back."""
    with udp() as (client, upstream), Far(Link(upstream.getsockname(), kind="udp"), loss=loss, seed=seed) as far:
        seen = set()
        for number in range(count):
            client.sendto(struct.pack("!I", number), far.address)
            until(lambda n=number: far.counts().datagrams == n + 1, "the relay has it", every=0)  # type: ignore[misc]
        counts = far.counts()
        for _ in range(count - counts.lost):
            data, via = upstream.recvfrom(16)
            seen.add(struct.unpack("!I", data)[0])
        assert counts.forward == 4 * len(seen)
        far.loss(0)
        upstream.sendto(b"back", via)
        assert client.recv(16) == b"back"
        return seen


def test_without_loss_every_datagram_comes_both_ways() -> None:
    assert arrived(0, 1) == set(range(1000))


def test_the_asked_share_of_datagrams_is_lost_and_the_seed_says_which() -> None:
    first = arrived(0.2, 7)
    assert 750 < len(first) < 850
    assert arrived(0.2, 7) == first != arrived(0.2, 8)


def test_datagrams_take_the_delay() -> None:
    with udp() as (client, upstream), Far(Link(upstream.getsockname(), kind="udp"), delay=DELAY) as far:
        begun = time.monotonic()
        client.sendto(b"there", far.address)
        data, via = upstream.recvfrom(16)
        assert data == b"there" and time.monotonic() - begun >= DELAY
        upstream.sendto(b"and back", via)
        assert client.recv(16) == b"and back" and time.monotonic() - begun >= 2 * DELAY


def test_datagrams_of_a_cut_way_are_lost_for_good() -> None:
    with udp() as (client, upstream), Far(Link(upstream.getsockname(), kind="udp")) as far:
        client.sendto(b"1", far.address)
        _, via = upstream.recvfrom(16)
        far.cut("forward")
        client.sendto(b"2", far.address)
        until(lambda: far.counts().lost == 1, "the second is lost")
        upstream.sendto(b"back", via)
        assert client.recv(16) == b"back"
        far.heal()
        client.sendto(b"3", far.address)
        assert upstream.recv(16) == b"3"


# -- commands


def test_the_delay_changes_on_command(server: Server) -> None:
    with Far(Link(server.address)) as far, pair(far, server) as (client, upstream):
        far.delay(DELAY)
        begun = time.monotonic()
        client.sendall(b"x")
        exactly(upstream, 1)
        assert time.monotonic() - begun >= DELAY


def test_an_unknown_command_is_refused(server: Server) -> None:
    with Far(Link(server.address)) as far, pytest.raises(AssertionError, match="no such command: jump"):
        far._say("jump")


def test_it_ends_with_its_input(server: Server) -> None:
    far = Far(Link(server.address))
    far.stop()
    assert far.process.returncode == 0
