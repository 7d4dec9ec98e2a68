"""Every named limit: exactly at it passes, one more is refused with its own code and counted."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import CLOSE, ScriptedVM, Seen, VMConnection
from tests.kit.wait import until

LIMITS = {
    "head": "4KiB",
    "headers": 16,
    "target": "1KiB",
    "trailers": "512B",
    "chunk_extension": "128B",
    "pipelined": 4,
}


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    started = start_daemon(limits=LIMITS)
    started.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    return started


def head_of(size: int) -> bytes:
    start, end = b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


def headers_of(count: int) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: web.localhost\r\n" + b"X: y\r\n" * (count - 1) + b"\r\n"


def target_of(size: int) -> bytes:
    return b"GET /" + b"t" * (size - 1) + b" HTTP/1.1\r\nHost: web.localhost\r\n\r\n"


def chunked(rest: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + rest


def trailers_of(size: int) -> bytes:
    """A trailer section of ``size`` bytes, the empty line that ends it included."""
    return chunked(b"1\r\na\r\n0\r\nX: " + b"t" * (size - 7) + b"\r\n\r\n")


def extension_of(size: int) -> bytes:
    return chunked(b"1;" + b"e" * (size - 1) + b"\r\na\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("limit", "build", "most", "status", "code"),
    [
        ("head", head_of, 4096, 431, "PH02"),
        ("headers", headers_of, 16, 431, "PH03"),
        ("target", target_of, 1024, 414, "PH04"),
        ("trailers", trailers_of, 512, 431, "PH14"),
        ("chunk_extension", extension_of, 128, 400, "PH01"),
    ],
)
def test_limit_is_exact(
    daemon: ProxyDaemon, limit: str, build: Callable[[int], bytes], most: int, status: int, code: str
) -> None:
    before = daemon.metric("flyproxy_limit_reached_total", limit=limit)
    with daemon.client() as client:
        client.send(build(most))
        assert client.response().status == 200
    with daemon.client() as client:
        client.try_send(build(most + 1))
        got = client.response()
        assert (got.status, got.error) == (status, code)
        client.assert_closed()
    assert daemon.metric("flyproxy_limit_reached_total", limit=limit) == before + 1


def test_endless_head_is_refused_at_the_limit(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX: " + b"x" * 4096)  # and no end of it
    got = client.response()
    assert (got.status, got.error) == (431, "PH02")


def test_pipelined_requests_over_the_limit(daemon: ProxyDaemon, vm: ScriptedVM, client: RawClient) -> None:
    held, go = threading.Event(), threading.Event()

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        held.set()
        go.wait(10)
        conn.reply(b"first")

    request = "GET {} HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
    client.send((request.format(vm.route(script)) + request.format("/") * 3).encode())
    assert held.wait(10)
    client.send(request.format("/").encode() * 8)
    go.set()
    answers = []
    with contextlib.suppress(AssertionError):
        while True:
            answers.append(client.response())
    assert [got.status for got in answers] == [200] * (len(answers) - 1) + [503]
    assert answers[0].body == b"first"
    assert answers[-1].error == "PL06"
    assert len(answers) <= 6


def test_pipelined_requests_at_the_limit_are_all_served(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n" * 4)
    assert [client.response().status for _ in range(4)] == [200] * 4


# -- connections


@pytest.fixture(scope="module")
def crowded(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    started = start_daemon(limits={"connections": 12, "app_connections": 5})
    for name in ("web", "other"):
        started.add_app(name, machines=[vm.address], hostnames=[f"{name}.localhost"])
    return started


def assert_refused(daemon: ProxyDaemon, host: str, code: str) -> None:
    with daemon.client() as client:
        client.try_send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        got = client.response()
        assert (got.status, got.error, got.header("retry-after")) == (503, code, "1")
        client.assert_closed()


def serves(daemon: ProxyDaemon, host: str) -> bool:
    with daemon.client() as client:
        client.try_send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return client.response().status == 200


def test_connections_of_one_app(crowded: ProxyDaemon) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            assert stack.enter_context(crowded.client()).get().status == 200
        assert_refused(crowded, "web.localhost", "PL04")
        assert serves(crowded, "other.localhost"), "another app is not touched"
        assert crowded.metric("flyproxy_limit_reached_total", limit="app_connections") >= 1
    until(lambda: serves(crowded, "web.localhost"), "the app is served again")


def test_connections_of_the_proxy(crowded: ProxyDaemon) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(10):
            assert (
                stack.enter_context(crowded.client()).get(host=f"{'other' if number % 2 else 'web'}.localhost").status
                == 200
            )
        for _ in range(2):
            stack.enter_context(crowded.client()).get(host="nobody.localhost")
        assert_refused(crowded, "web.localhost", "PL03")
        assert crowded.metric("flyproxy_limit_reached_total", limit="connections") >= 1
    until(lambda: serves(crowded, "web.localhost"), "new connections are served again")


# -- hard limits across workers


class Gauge:
    """How many scripts run at once, at most."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


@pytest.fixture(scope="module")
def pair(start_daemon: Callable[..., ProxyDaemon]) -> ProxyDaemon:
    """Two workers."""
    return start_daemon(workers={"count": 2, "slots": 2})


@pytest.mark.parametrize("kind", ["requests", "connections"])
def test_hard_limit_holds_over_all_workers_and_queues(
    pair: ProxyDaemon, start_vm: Callable[..., ScriptedVM], kind: str
) -> None:
    gauge = Gauge()

    def script(conn: VMConnection, seen: Seen) -> None:
        conn.body(seen)
        with gauge:
            conn.ended.wait(0.03)
        conn.reply()

    few = start_vm(name=f"few-{kind}")
    path = few.route(script)
    pair.add_app(
        f"few-{kind}",
        f'[http_service]\ninternal_port = 8080\n[http_service.concurrency]\ntype = "{kind}"\n'
        "soft_limit = 1\nhard_limit = 3\n",
        [few.address],
        [f"few-{kind}.localhost"],
    )
    statuses: list[int] = []

    def one() -> None:
        with pair.client(timeout=20) as client:
            for _ in range(4):
                statuses.append(client.get(path, host=f"few-{kind}.localhost").status)

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 64
    assert gauge.most <= 3
    assert gauge.most >= 2, "the limit is used"


# -- memory and files


def test_memory_limit_refuses_and_recovers(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> None:
    daemon = start_daemon(limits={"memory": "1MiB"})
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])

    def script(conn: VMConnection, seen: Seen) -> str:
        conn.body(seen)
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(2000):
                conn.send(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        return CLOSE

    path = vm.route(script)
    with contextlib.ExitStack() as stack:

        def refused() -> bool:
            held = stack.enter_context(daemon.client(rcvbuf=4096))
            held.request(target=path)
            with daemon.client() as probe:
                probe.try_send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
                return probe.response().error == "PL05"

        until(refused, "the memory limit is reached", every=0.05)
        assert daemon.metric("flyproxy_limit_reached_total", limit="memory") >= 1
    until(lambda: serves(daemon, "web.localhost"), "requests are served again")


def cpu_ticks(pids: list[int]) -> int:
    def ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    return sum(map(ticks, pids))


def test_out_of_files_pauses_without_spinning_and_recovers(
    start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM
) -> None:
    daemon = start_daemon(prefix=["prlimit", "--nofile=256:256"], allowed=["files-exhausted"])
    daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    with daemon.client() as served, contextlib.ExitStack() as stack:
        assert served.get().status == 200
        crowd = [stack.enter_context(daemon.client()) for _ in range(300)]
        until(lambda: daemon.metric("flyproxy_limit_reached_total", limit="files") >= 1, "accepting pauses")
        assert served.get().status == 200, "who is in is served"
        before, start = cpu_ticks(daemon.workers()), time.monotonic()
        assert served.silent(1.0)
        spent = (cpu_ticks(daemon.workers()) - before) / 100
        assert spent < 0.3 * (time.monotonic() - start), "nothing spins while accepting is paused"
        del crowd
    until(lambda: serves(daemon, "web.localhost"), "new connections are served again by itself")
