"""Bodies both ways: counted, chunked, without end, none; streaming, back-pressure, memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

MEGA = 1 << 20
# What a machine has to say before it closes: else the next POST may be on its way there, and nobody may repeat it.
LAST = "Connection: close\r\n"
HEAD = "POST {} HTTP/1.1\r\nHost: web.localhost\r\n"
CHUNKED = HEAD + "Transfer-Encoding: chunked\r\n\r\n"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pattern(n: int) -> bytes:
    """Bytes in which every shift and every loss shows."""
    block = b"".join(b"%07d\n" % number for number in range(16384))
    return (block * (n // len(block) + 1))[:n]


# -- requests


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 65535, 65536, 65537, 300_000, 3 * MEGA])
def test_counted_body_arrives_whole(vm: ScriptedVM, client: RawClient, marker: str, n: int) -> None:
    client.send(f"POST /{marker} HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: {n}\r\n\r\n".encode())
    sender = threading.Thread(target=client.send, args=(pattern(n),))
    sender.start()
    got = client.response()
    sender.join()
    assert got.status == 200
    assert digest(vm.wait_seen(marker).body) == digest(pattern(n))
    assert client.get().status == 200


@pytest.mark.parametrize("size", [1, 3, 1000, 65536, 200_000])
def test_chunked_body_arrives_whole(vm: ScriptedVM, client: RawClient, marker: str, size: int) -> None:
    data = pattern(min(size * 50, MEGA))
    client.send(CHUNKED.format(f"/{marker}").encode())
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        client.send(b"%X\r\n" % len(piece) + piece + b"\r\n")
    client.send(b"0\r\n\r\n")
    assert client.response().status == 200
    seen = vm.wait_seen(marker)
    assert digest(seen.body) == digest(data)
    assert seen.all("content-length") == []
    assert client.get().status == 200


def test_chunk_extensions_and_trailers_are_understood(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.send(
        CHUNKED.format(f"/{marker}").encode()
        + b'3;a=b;c="d;\te"\r\nabc\r\n000004;x\r\ndefg\r\n0;last\r\nX-Sum: 7\r\nX-More: y\r\n\r\n'
    )
    assert client.response().body == b"abcdefg"
    assert vm.wait_seen(marker).trailers in ([], [("x-sum", "7"), ("x-more", "y")])
    assert client.get().status == 200


def test_trailers_reach_a_vm(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.send(
        (HEAD + "TE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n")
        .format(f"/{marker}")
        .encode()
        + b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    assert client.response().body == b"abc"
    assert vm.wait_seen(marker).trailers == [("x-sum", "7")]


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host", "Fly-Client-IP", "flyproxy-error"])
def test_forbidden_trailer_is_dropped_or_refused(vm: ScriptedVM, client: RawClient, marker: str, name: str) -> None:
    client.send(CHUNKED.format(f"/{marker}").encode() + f"3\r\nabc\r\n0\r\n{name}: 3\r\n\r\n".encode())
    got = client.response()
    if got.status == 200:
        assert name.lower() not in dict(vm.wait_seen(marker).trailers)
    else:
        assert (got.status, got.error) == (400, "PH01")
        assert not any(seen.complete for seen in vm.seen(marker))


def test_equal_lengths_are_one_or_refused(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    client.send(HEAD.format(f"/{marker}").encode() + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc")
    got = client.response()
    if got.status == 200:
        assert vm.wait_seen(marker).all("content-length") == ["3"]
    else:
        assert (got.status, got.error) == (400, "PH01")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_chunked_body_in_tiny_pieces(vm: ScriptedVM, client: RawClient, marker: str, size: int) -> None:
    stream = CHUNKED.format(f"/{marker}").encode() + b"5;x=y\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nX-T: 1\r\n\r\n"
    for at in range(0, len(stream), size):
        client.send(stream[at : at + size])
    assert client.response().body == b"hello0123456789abcdef"


def test_body_streams_while_it_comes(vm: ScriptedVM, client: RawClient) -> None:
    got: list[bytes] = []
    arrived = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        got.append(bytes(conn.some_body(seen, 3)))
        arrived.set()
        conn.reply(conn.body(seen), headers=LAST)
        return CLOSE

    client.send((HEAD + "Content-Length: 6\r\n\r\nabc").format(vm.route(script)).encode())
    assert arrived.wait(10), "the first half must not wait for the second"
    client.send(b"def")
    assert client.response().body == b"abcdef"
    assert got == [b"abc"]


# -- Expect


def test_expect_continue_from_the_vm_reaches_the_client(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        conn.reply(conn.body(seen), headers=LAST)
        return CLOSE

    client.send((HEAD + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n").format(vm.route(script)).encode())
    assert client.head().status == 100
    client.send(b"abc")
    got = client.response()
    assert (got.status, got.body) == (200, b"abc")


def test_expect_answered_finally_before_the_body(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.reply(b"no", "403 Forbidden", LAST)
        return CLOSE

    client.send((HEAD + "Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n").format(vm.route(script)).encode())
    got = client.response()
    assert (got.status, got.body) == (403, b"no")
    client.assert_closed()


def test_expect_is_ignored_for_http10(vm: ScriptedVM, client: RawClient) -> None:
    client.send(b"POST / HTTP/1.0\r\nHost: web.localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    got = client.response()
    assert (got.interim, got.body) == ([], b"abc")


# -- answers


@pytest.mark.parametrize("n", [0, 1, 4096, 65535, 65536, 65537, 1_000_000, 20 * MEGA])
def test_counted_answer_arrives_whole(vm: ScriptedVM, client: RawClient, n: int) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.reply(pattern(n))

    got = client.get(vm.route(script))
    assert got.header("content-length") == str(n)
    assert digest(got.body) == digest(pattern(n))
    assert client.get().status == 200


def test_chunked_answer_with_trailers(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        for size in (1, 10, 1000, 100_000):
            conn.send(b"%x;ext=1\r\n" % size + pattern(size) + b"\r\n")
        conn.send(b"0\r\nX-Sum: 9\r\nflyproxy-error: PP01\r\n\r\n")

    got = client.get(vm.route(script), headers="TE: trailers\r\nConnection: TE\r\n")
    assert got.body == pattern(1) + pattern(10) + pattern(1000) + pattern(100_000)
    assert [(name.lower(), value) for name, value in got.trailers] == [("x-sum", "9")]
    assert client.get().status == 200


def test_answer_until_close_is_chunked_for_http11(vm: ScriptedVM, client: RawClient) -> None:
    got = client.get(vm.answer(b"HTTP/1.1 200 OK\r\n\r\n" + pattern(100_000)))
    assert (got.chunked, got.complete) == (True, True)
    assert got.body == pattern(100_000)
    assert client.get().status == 200, "the client's connection stays usable"


def test_answer_until_close_for_http10(vm: ScriptedVM, client: RawClient) -> None:
    client.request(target=vm.answer(b"HTTP/1.1 200 OK\r\n\r\n" + pattern(1000)), version="HTTP/1.0")
    assert client.response().body == pattern(1000)
    client.assert_closed()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_answer_without_body(vm: ScriptedVM, client: RawClient, raw: bytes) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.send(raw)

    got = client.get(vm.route(script))
    assert (got.status, got.body) == (int(raw[9:12]), b"")
    assert client.get().body == b"vm\n"


def test_head_answer_has_the_length_and_no_body(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")

    client.request("HEAD", vm.route(script))
    assert client.response("HEAD").header("content-length") == "1234"
    assert client.get().body == b"vm\n"


def test_head_answer_of_a_chunked_resource(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    client.request("HEAD", vm.route(script))
    assert client.response("HEAD").status == 200
    assert client.get().body == b"vm\n"


def test_answer_before_the_request_body_was_read(vm: ScriptedVM, client: RawClient, marker: str) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.reply(b"early", "413 Too Large", "Connection: close\r\n")
        conn.end()
        conn.wait_end()
        return CLOSE

    client.send((HEAD + "Content-Length: 5000000\r\n\r\n").format(vm.route(script)).encode() + b"x" * 1000)
    got = client.response()
    assert (got.status, got.body) == (413, b"early")
    client.assert_closed()


def test_client_that_goes_on_sending_still_gets_the_early_answer(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.reply(b"early", "413 Too Large")
        return CLOSE

    client.send((HEAD + "Content-Length: 5000000\r\n\r\n").format(vm.route(script)).encode())
    sender = threading.Thread(target=client.try_send, args=(b"x" * 5_000_000,))
    sender.start()
    got = client.response()
    assert (got.status, got.body) == (413, b"early")
    client.sock.close()
    sender.join()


# -- back-pressure: a slow side holds memory bounded on the other

FLOOD = 64 * MEGA
HELD_MAX = 24 * MEGA  # kernel buffers of three sockets and ours; far below FLOOD


def resident(daemon: ProxyDaemon) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in daemon.workers())
    return pages * 4096


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_slow_reader_bounds_memory(daemon: ProxyDaemon, vm: ScriptedVM, chunked: bool) -> None:
    sent = [0]
    piece = pattern(MEGA)

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {FLOOD}"
        conn.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        for _ in range(FLOOD // MEGA):
            conn.send(b"%x\r\n" % MEGA + piece + b"\r\n" if chunked else piece)
            sent[0] += MEGA
        conn.send(b"0\r\n\r\n" if chunked else b"")
        return CLOSE

    before = resident(daemon)
    with daemon.client(rcvbuf=65536, timeout=20) as client:
        client.request(target=vm.route(script))
        stable_sent(sent)
        assert sent[0] < HELD_MAX, "the VM could push far more than the buffers hold"
        assert resident(daemon) - before < 4 * MEGA
        got = client.response()
    assert (got.complete, digest(got.body)) == (True, digest(piece * (FLOOD // MEGA)))


def stable_sent(sent: list[int]) -> None:
    """Until the sender has made no progress for a while: it is blocked by back-pressure."""
    history: list[int] = []

    def stuck() -> bool:
        history.append(sent[0])
        return len(history) > 30 and history[-30] == history[-1] and sent[0] > 0

    until(stuck, "the sender is stopped by back-pressure")


def test_slow_vm_bounds_memory(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    go = threading.Event()
    total: list[int] = []

    def script(conn: VMConnection, seen: Seen) -> str:
        go.wait(20)
        total.append(len(conn.body(seen)))
        conn.reply(headers=LAST)
        return CLOSE

    before = resident(daemon)
    sent = [0]
    piece = pattern(MEGA)
    with daemon.client(timeout=20) as client:
        client.send((HEAD + f"Content-Length: {FLOOD}\r\n\r\n").format(vm.route(script)).encode())

        def pour() -> None:
            for _ in range(FLOOD // MEGA):
                client.send(piece)
                sent[0] += MEGA

        sender = threading.Thread(target=pour)
        sender.start()
        stable_sent(sent)
        assert sent[0] < HELD_MAX
        assert resident(daemon) - before < 4 * MEGA
        go.set()
        assert client.response().status == 200
        sender.join()
    assert total == [FLOOD]


def test_many_bodies_at_once(daemon: ProxyDaemon, vm: ScriptedVM) -> None:
    def script(conn: VMConnection, seen: Seen) -> None:
        conn.reply(conn.body(seen))

    path = vm.route(script)
    results: list[bool] = []

    def one(number: int) -> None:
        data = pattern(200_000 + number)
        with daemon.client(timeout=20) as client:
            for _ in range(3):
                client.request("POST", path, body=data)
                results.append(client.response().body == data)

    run_all([lambda number=number: one(number) for number in range(12)])  # type: ignore[misc]
    assert results == [True] * 36


def run_all(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
