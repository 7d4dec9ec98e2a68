"""A machine that counts, at every instant, the requests and connections that it has, and answers when it is told.

What it counts is never more than what is really open: a request ends for it before its answer is sent, a connection as
soon as the kernel has the other side's FIN or RST, read or not. So a count above a limit is proof of a breach.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast

from tests.kit.wait import until

T = TypeVar("T")
ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class CountingVM:
    """``hold``: requests wait for ``answer``; otherwise each is answered after ``think`` seconds. Requests to ``/up``
    are health checks: answered by ``up``, counted nowhere. ``busy`` and ``most_busy``: requests now, and at once at
    most; ``most_open``: connections; ``seen``: targets in the order in which they came."""

    def __init__(self, name: str = "vm", hold: bool = False, think: float = 0.0) -> None:
        self.name, self.hold, self.think, self.up = name, hold, think, True
        self.busy = self.most_busy = self.most_open = 0
        self.seen: list[str] = []
        self.waiting: deque[_Connection] = deque()
        self.connections: set[_Connection] = set()
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True, name=name)
        self.thread.start()
        assert started.wait(10)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, count: int = 1) -> None:
        """Answers the oldest ``count`` held requests; they must be there."""

        def work() -> None:
            for _ in range(count):
                self.waiting.popleft().reply()

        self._call(work)

    def release(self) -> None:
        """Answers everything, from now on at once."""

        def work() -> None:
            self.hold = False
            while self.waiting:
                self.waiting.popleft().reply()

        self._call(work)

    def open(self) -> int:
        """Connections that nobody has ended."""
        return self._call(lambda: sum(not one.ended() for one in self.connections))

    def wait_busy(self, count: int) -> None:
        until(lambda: self.busy == count, f"{self.name} has {count} requests", every=0.002)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _call(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def _run(self, started: threading.Event) -> None:
        server = self.loop.run_until_complete(self.loop.create_server(lambda: _Connection(self), "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]
        started.set()
        self.loop.run_forever()
        server.close()
        for connection in self.connections:
            connection.transport.abort()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, vm: CountingVM) -> None:
        self.vm, self.buffer, self.asking = vm, b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.poll = select.poll()
        self.poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        self.vm.connections.add(self)
        self.vm.most_open = max(self.vm.most_open, sum(not one.ended() for one in self.vm.connections))

    def ended(self) -> bool:
        return any(events & ENDED for _, events in self.poll.poll(0))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self._request(head.split(b" ")[1].decode())

    def _request(self, target: str) -> None:
        if target == "/up":
            self._send("200 OK" if self.vm.up else "503 Down")
            return
        vm = self.vm
        vm.seen.append(target)
        vm.busy += 1
        vm.most_busy = max(vm.most_busy, vm.busy)
        self.asking = True
        if vm.hold:
            vm.waiting.append(self)
        elif vm.think:
            vm.loop.call_later(vm.think, self.reply)
        else:
            self.reply()

    def reply(self) -> None:
        if self.asking:
            self.asking = False
            self.vm.busy -= 1
            self._send("200 OK")

    def _send(self, status: str) -> None:
        body = f"{self.vm.name}\n"
        self.transport.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def connection_lost(self, error: Exception | None) -> None:
        vm = self.vm
        vm.connections.discard(self)
        if self.asking:
            self.asking = False
            vm.busy -= 1
            if self in vm.waiting:
                vm.waiting.remove(self)
