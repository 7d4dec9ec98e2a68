"""Waiting for room, over several engines that share their segments as workers do."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from flyproxy._speedups.engine import Engine
from flyproxy._speedups.shm.beat import Root, create_segments
from flyproxy._speedups.shm.table import TableWriter
from flyproxy.settings import Settings
from tests.engine.kit import mapped, service, wait_until

GET = b"GET %s HTTP/1.1\r\nHost: app.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class HoldingVM:
    """Answers a request when ``release`` has been called for it; /now at once."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.arrived = threading.Semaphore(0)
        self.releases = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self, n: int = 1) -> None:
        self.releases.release(n)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            data = b""
            while more := peer.recv(65536):
                data += more
                if data.endswith(b"\r\n\r\n"):
                    if not data.startswith(b"GET /now"):
                        self.arrived.release()
                        self.releases.acquire()
                    peer.sendall(OK)
                    data = b""


class Workers:
    def __init__(self, vm: HoldingVM, count: int, settings: Settings) -> None:
        self.fds = create_segments(apps=64, hostnames=64, addresses=64, machines=64, procs=16, slots=count)
        self.wakes = {n: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for n in range(count)}
        self.root = Root(self.fds, writable=True)
        self.writer = TableWriter(self.fds, self.wakes, "loc", "host", b"k" * 16)
        self.revision = 0
        self.engines: list[Engine] = []
        self.threads: list[threading.Thread] = []
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.ports: list[int] = [one.getsockname()[1] for one in listeners]
        self.writer.reset()
        self.put_app()
        self.writer.put_hostname("app.test", "app")
        self.writer.put_machine("m1", "app", mapped("127.0.0.1"), vm.port, "loc", "host", "unknown", False)
        self.commit()
        for number, listener in enumerate(listeners):
            listener.setblocking(False)
            self.root.claim_proc(number, os.getpid())
            self.root.set_slot_owner(number, number)
            engine = Engine(number, self.fds, self.wakes, msgspec.to_builtins(settings), "host")
            engine.add_listener(number, number, listener.detach(), 80, False, [], False)
            self.engines.append(engine)
            self.threads.append(threading.Thread(target=engine.run))
            self.threads[-1].start()

    def put_app(self, **changes: Any) -> None:
        self.writer.put_app("app", [{**service(80), **changes}])

    def commit(self) -> None:
        self.revision += 1
        self.writer.commit(self.revision)

    def limit(self, **changes: Any) -> None:
        """Changes the service; returns when every engine has read it."""
        self.put_app(**changes)
        self.commit()
        for number in range(len(self.engines)):
            wait_until(lambda n=number: self.root.proc(n).revision == self.revision, what="the new revision")

    def ask(self, worker: int, path: bytes = b"/") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.ports[worker]), 10)
        client.sendall(GET % path)
        return client

    def stop(self) -> None:
        for engine in self.engines:
            engine.stop()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        for fd in [*self.fds.values(), *self.wakes.values()]:
            os.close(fd)


@pytest.fixture
def vm() -> Iterator[HoldingVM]:
    made = HoldingVM()
    yield made
    made.release(1000)
    made.listener.close()


@pytest.fixture
def start(vm: HoldingVM) -> Iterator[Callable[..., Workers]]:
    started: list[Workers] = []

    def run(count: int, **timeouts: float) -> Workers:
        settings = Settings()
        settings = msgspec.structs.replace(settings, timeouts=msgspec.structs.replace(settings.timeouts, **timeouts))
        started.append(Workers(vm, count, settings))
        return started[-1]

    yield run
    for workers in started:
        workers.stop()


def answered(client: socket.socket, seconds: float) -> bytes:
    client.settimeout(seconds)
    try:
        return client.recv(65536)[9:12]
    except TimeoutError:
        return b""


def test_engine_lives_while_several_wait_for_connections_that_another_worker_keeps(
    vm: HoldingVM, start: Callable[..., Workers]
) -> None:
    """Worker 1 holds idle connections of a service that had no limit yet; nobody can make room for worker 0."""
    workers = start(2, upstream_idle=3.0)
    idlers = [workers.ask(1) for _ in range(2)]
    for _ in idlers:
        assert vm.arrived.acquire(timeout=10)
    vm.release(2)
    assert [answered(client, 10) for client in idlers] == [b"200"] * 2
    workers.limit(concurrency="connections", soft_limit=1, hard_limit=2)
    waiters = [workers.ask(0, b"/now") for _ in range(3)]
    turns = workers.root.proc(0).engine_turns
    wait_until(lambda: workers.root.proc(0).engine_turns > turns + 5, 2, "the engine's next turns")
    assert [answered(client, 10) for client in waiters] == [b"200"] * 3, "once the idle ones have left"


def test_room_is_not_lost_on_workers_that_no_longer_wait(vm: HoldingVM, start: Callable[..., Workers]) -> None:
    """Clients of workers 1 and 2 waited and left; what worker 0 releases may wake those for nothing."""
    workers = start(4, queue=10.0)
    workers.limit(soft_limit=1, hard_limit=1)
    holder = workers.ask(0)
    assert vm.arrived.acquire(timeout=10)
    waiters = [workers.ask(number) for number in (1, 2, 3)]
    time.sleep(0.2)  # they are in the queues: nothing tells so from outside
    for number in (1, 2):
        waiters[number - 1].close()
        wait_until(lambda n=number: workers.root.proc(n).connections == 0, what="the client is gone")
    vm.release()
    assert answered(holder, 10) == b"200"
    assert vm.arrived.acquire(timeout=2), "worker 3 found the room"
    vm.release()
    assert answered(waiters[2], 10) == b"200"


def test_idle_connections_of_another_worker_leave_when_a_full_machine_needs_their_room(
    vm: HoldingVM, start: Callable[..., Workers]
) -> None:
    """Worker 1 keeps two of four, taken and given back several times; worker 0 gets all four long before they age."""
    workers = start(2, upstream_idle=60.0, queue=10.0)
    workers.limit(concurrency="connections", soft_limit=4, hard_limit=4)
    for _ in range(3):
        idlers = [workers.ask(1) for _ in range(2)]
        for _ in idlers:
            assert vm.arrived.acquire(timeout=10)
        vm.release(2)
        assert [answered(client, 10) for client in idlers] == [b"200"] * 2
    waiters = [workers.ask(0) for _ in range(4)]
    for _ in waiters:
        assert vm.arrived.acquire(timeout=5), "a request found no room"
    vm.release(4)
    assert [answered(client, 10) for client in waiters] == [b"200"] * 4
