"""What VMs do wrong, and ends in the middle: truncated, never silently complete; retried only when that is safe."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npoison!"

BEFORE_THE_HEAD = {
    "length and chunked": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PU06",
    ),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "PU06"),
    "length with a sign": (b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", "PU06"),
    "length over 2^63": (b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nabc", "PU06"),
    "coding unknown": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", "PU06"),
    "chunked not last": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nabc", "PU06"),
    "NUL in the head": (b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "bare CR in a value": (b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "bare LF lines": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "PU06"),
    "fold": (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "space before the colon": (b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "no colon": (b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "no status": (b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "status 99": (b"HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "status 1000": (b"HTTP/1.1 1000 High\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "PU06"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "PU06"),
    "101 unasked": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "PU06"),
    "truncated head": (b"HTTP/1.1 200 OK\r\nContent-Le", "PU02"),
    "only interim answers": (b"HTTP/1.1 103 Early Hints\r\n\r\n", "PU02"),
    "nothing": (b"", "PU02 PC03"),  # PC03 where the connection came from the pool
    "head of 100 KiB": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "PU07"),
    "1000 headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "PU07"),
}


@pytest.mark.parametrize("name", BEFORE_THE_HEAD)
def test_fault_before_the_head_is_a_502(vm: ScriptedVM, client: RawClient, name: str) -> None:
    raw, code = BEFORE_THE_HEAD[name]
    client.request("POST", vm.answer(raw), body=b"x")  # a POST: not repeatable, so answered at the first fault
    got = client.response()
    assert got.status == 502
    assert got.error in code.split()
    assert client.get().body == b"vm\n", "the client's connection stays usable, the VM's was not reused"


ENDS = ("truncated head", "only interim answers", "nothing")  # followed by more bytes these would be other answers


@pytest.mark.parametrize("name", [name for name in BEFORE_THE_HEAD if name not in ENDS])
def test_connection_after_a_fault_is_never_reused(vm: ScriptedVM, client: RawClient, marker: str, name: str) -> None:
    """The VM keeps the connection open; bytes after its bad head must not become the next answer."""
    raw, _ = BEFORE_THE_HEAD[name]

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(raw + SMUGGLED)
        conn.wait_end()
        return CLOSE

    client.request("POST", vm.route(script) + "?" + marker, body=b"x")
    assert client.response().status == 502
    assert client.get().body == b"vm\n"


AFTER_THE_HEAD = {
    "counted, too short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
    "counted, none": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "chunked, cut in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nshort",
    "chunked, no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    "chunked, cut in the trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nX: y\r\n",
    "chunked, bad size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    "chunked, more than its size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshorter\r\n0\r\n\r\n",
    "chunked, bare LF": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nshort\n0\n\n",
}


@pytest.mark.parametrize("name", AFTER_THE_HEAD)
def test_fault_in_the_body_truncates_visibly(vm: ScriptedVM, client: RawClient, name: str) -> None:
    client.request(target=vm.answer(AFTER_THE_HEAD[name]))
    got = client.response()
    if got.status == 502:  # nothing had gone out yet
        assert got.error in ("PU02", "PU06")
    else:
        assert not got.complete
        client.assert_closed()


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_vm_reset_in_the_body_truncates_visibly(vm: ScriptedVM, client: RawClient, framing: str) -> None:
    go = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + b"5\r\nhello\r\n")
        go.wait(10)
        conn.reset()
        return CLOSE

    client.request(target=vm.route(script))
    assert client.head().status == 200
    client.exactly(5)
    go.set()
    left = client.rest()
    assert not left.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("framing", ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_body_where_none_may_be_never_becomes_the_next_answer(
    vm: ScriptedVM, client: RawClient, status: str, framing: str
) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(f"HTTP/1.1 {status}\r\n{framing}\r\n".encode() + SMUGGLED)
        conn.wait_end()
        return CLOSE

    got = client.get(vm.route(script))
    assert (got.status, got.body) in ((int(status[:3]), b""), (502, got.body))
    assert client.get().body == b"vm\n"


def test_bytes_after_a_complete_answer_are_never_the_next_one(vm: ScriptedVM, client: RawClient) -> None:
    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(OK + SMUGGLED)
        conn.wait_end()
        return CLOSE

    assert client.get(vm.route(script)).body == b"ok"
    assert [client.get().body for _ in range(3)] == [b"vm\n"] * 3


def test_bytes_pushed_into_an_idle_pooled_connection_are_never_an_answer(vm: ScriptedVM, client: RawClient) -> None:
    pushed = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(OK)
        answered.wait(10)
        conn.send(SMUGGLED)
        pushed.set()
        conn.wait_end()
        return CLOSE

    answered = threading.Event()
    assert client.get(vm.route(script)).body == b"ok"
    answered.set()
    assert pushed.wait(10)
    assert [client.get().body for _ in range(3)] == [b"vm\n"] * 3


def test_flood_of_interim_answers_is_bounded(vm: ScriptedVM, client: RawClient) -> None:
    ended = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        try:
            for _ in range(100_000):
                conn.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        except OSError:
            ended.set()
        return CLOSE

    client.request("POST", vm.route(script), body=b"x")
    while (got := client.head()).status < 200:
        pass
    assert (got.status, got.header("flyproxy-error")) in ((502, "PU06"), (502, "PU07"))
    assert ended.wait(10), "the VM's connection is closed, not read for ever"


# -- retries


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pooled_connection_that_the_vm_closed_is_never_used(
    vm: ScriptedVM, client: RawClient, marker: str, method: str
) -> None:
    """The VM resets the connection after each answer; once that has arrived, no request may fail for it."""

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.reply()
        conn.reset()
        return CLOSE

    path = vm.route(script)
    for number in range(30):
        client.request(method, f"{path}?{marker}-{number}.", body=b"x" if method == "POST" else b"")
        assert client.response().status == 200
        assert vm.connections[vm.wait_seen(f"{marker}-{number}.").connection].ended.wait(10)
    assert len(vm.seen(marker)) == 30


def test_get_survives_resets_at_any_moment(vm: ScriptedVM, client: RawClient) -> None:
    """The same, without waiting: the reset may cross the next request on its way. The client's connection is kept."""

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.reply()
        conn.reset()
        return CLOSE

    path = vm.route(script)
    got = [client.get(path) for _ in range(50)]
    assert [(one.status, one.header("connection")) for one in got] == [(200, None)] * 50


def test_get_is_repeated_once_when_a_pooled_connection_dies_under_it(
    start_vm: Callable[..., ScriptedVM], daemon: ProxyDaemon, client: RawClient
) -> None:
    """The VM takes the second request of a connection and closes without a word: the classic keep-alive race."""
    served: dict[int, int] = {}

    def on_connect(conn: VMConnection) -> None:
        while seen := conn.head():
            conn.body(seen)
            served[conn.number] = served.get(conn.number, 0) + 1
            if served[conn.number] == 2:
                return
            conn.reply()

    racer = start_vm(on_connect, name="racer")
    daemon.add_app("racer", machines=[racer.address], hostnames=["racer.localhost"])
    before = daemon.metric("flyproxy_retries_total", reason="stale")
    assert [client.get(host="racer.localhost").status for _ in range(6)] == [200] * 6
    assert daemon.metric("flyproxy_retries_total", reason="stale") > before


def test_post_that_may_have_arrived_is_not_repeated(
    start_vm: Callable[..., ScriptedVM], daemon: ProxyDaemon, client: RawClient, marker: str
) -> None:
    def on_connect(conn: VMConnection) -> None:
        first = True
        while seen := conn.head():
            conn.body(seen)
            if not first:
                return
            conn.reply()
            first = False

    teller = start_vm(on_connect, name="teller")
    daemon.add_app("teller", machines=[teller.address], hostnames=["teller.localhost"])
    assert client.get(host="teller.localhost").status == 200
    client.request("POST", f"/{marker}", host="teller.localhost", body=b"pay 5")
    got = client.response()
    assert (got.status, got.error) in ((502, "PU02"), (502, "PC03"))
    assert len(teller.seen(marker)) == 1


def test_fresh_connection_reset_is_coded(
    start_vm: Callable[..., ScriptedVM], daemon: ProxyDaemon, client: RawClient
) -> None:
    def on_connect(conn: VMConnection) -> None:
        conn.head()
        conn.reset()

    resetter = start_vm(on_connect, name="resetter")
    daemon.add_app("resetter", machines=[resetter.address], hostnames=["resetter.localhost"])
    client.request("POST", host="resetter.localhost", body=b"x")
    got = client.response()
    assert (got.status, got.error) == (502, "PC03")


# -- aborts of clients


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
def test_client_that_leaves_before_the_answer_reaches_the_vm_at_once(
    vm: ScriptedVM, daemon: ProxyDaemon, how: str
) -> None:
    waiting, gone = threading.Event(), threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        waiting.set()
        conn.wait_end()
        gone.set()
        return CLOSE

    with daemon.client() as client:
        client.request(target=vm.route(script))
        assert waiting.wait(10)
        {"reset": client.reset, "close": client.sock.close, "half-close": client.end}[how]()
        assert gone.wait(5), "the VM's connection ends with the client's"


def test_half_close_waits_for_the_answer_where_the_service_says_so(
    daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient
) -> None:
    daemon.add_app(
        "patient", "[http_service]\ninternal_port = 8080\nhalf_close = true\n", [vm.address], ["patient.localhost"]
    )
    ended = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        ended.wait(10)
        conn.reply(b"late")

    client.request(target=vm.route(script), host="patient.localhost")
    client.end()
    ended.set()
    assert client.response().body == b"late"


def test_client_reset_in_the_answer_stops_the_vm(vm: ScriptedVM, daemon: ProxyDaemon) -> None:
    gone = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                conn.send(b"x" * 65536)
        except OSError:
            gone.set()
        return CLOSE

    with daemon.client() as client:
        client.request(target=vm.route(script))
        assert client.head().status == 200
        client.reset()
    assert gone.wait(10)


def test_client_reset_frees_its_place_at_once(vm: ScriptedVM, daemon: ProxyDaemon) -> None:
    daemon.add_app(
        "single",
        '[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "requests"\n'
        "soft_limit = 1\nhard_limit = 1\n",
        [vm.address],
        ["single.localhost"],
    )
    waiting = threading.Event()

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        waiting.set()
        conn.wait_end()
        return CLOSE

    with daemon.client() as holder:
        holder.request(target=vm.route(script), host="single.localhost")
        assert waiting.wait(10)
        holder.reset()
    with daemon.client(timeout=5) as client:
        assert client.get(host="single.localhost").status == 200
    until(lambda: in_flight(daemon, "single") == 0, "nothing is in flight any more")


def in_flight(daemon: ProxyDaemon, app: str) -> int:
    return sum(machine["in_flight"] for machine in daemon.ctl("machines", "list", "-a", app))


def test_client_that_stops_in_its_body_never_completes_at_the_vm(
    vm: ScriptedVM, daemon: ProxyDaemon, marker: str
) -> None:
    with daemon.client() as client:
        client.send(f"POST /{marker} HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 100\r\n\r\nonly this".encode())
        vm.wait_seen(marker)
        client.end()
        client.rest()
    until(lambda: vm.connections[vm.seen(marker)[0].connection].ended.is_set(), "the VM's connection ends")
    assert not vm.seen(marker)[0].complete


def test_chunked_client_that_stops_never_completes_at_the_vm(vm: ScriptedVM, daemon: ProxyDaemon, marker: str) -> None:
    with daemon.client() as client:
        client.send(
            f"POST /{marker} HTTP/1.1\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode()
        )
        vm.wait_seen(marker)
        client.end()
        client.rest()
    until(lambda: vm.connections[vm.seen(marker)[0].connection].ended.is_set(), "the VM's connection ends")
    assert not vm.seen(marker)[0].complete
