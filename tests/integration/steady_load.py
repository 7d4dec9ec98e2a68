"""A steady load on a proxy while something happens to its processes: what was lost, and the longest wait."""

from __future__ import annotations

import gc
import threading
import time
from types import TracebackType

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.wait import until

PAUSE_S = 0.002  # between two requests of one client: a steady load, not the largest one


class SteadyLoad:
    """``clients`` threads, each with one request at a time: on a kept connection, or a new one for each request; then
    it pauses for ``pause`` seconds.

    A request is lost when it gets no whole 200. Waits are in seconds, from before the connect to the end of the answer.
    """

    def __init__(
        self, daemon: ProxyDaemon, clients: int = 4, keep: bool = True, host: str = "web.localhost",
        pause: float = PAUSE_S,
    ) -> None:  # fmt: skip
        self.address = daemon.address()
        self.host, self.keep, self.pause = host, keep, pause
        self.answered = 0
        self.slowest = 0.0
        self.lost: list[str] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> SteadyLoad:
        gc.disable()  # to look through all that VMs have noted stops the clients for a second
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object, __: TracebackType | None = None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        gc.enable()

    def more(self, count: int) -> None:
        """Waits until so many further requests are answered."""
        goal = self.answered + count
        until(lambda: self.answered >= goal, f"{count} more requests are answered (lost: {self.lost})", 20)

    def assert_nothing_lost(self, slowest: float = 1.0) -> None:
        assert not self.lost, self.lost
        assert self.slowest < slowest, f"a request waited {self.slowest:.2f} s"

    def _run(self) -> None:
        client: RawClient | None = None
        while not self._stop.wait(self.pause):
            begun = time.monotonic()
            try:
                client = client or RawClient(self.address, 8.0)
                answer = client.get("/", self.host, "" if self.keep else "Connection: close\r\n")
                assert answer.status == 200 and answer.complete, f"{answer.status} {answer.error}"
                closes = not self.keep or (answer.header("connection") or "").lower() == "close"
            except (OSError, AssertionError) as error:
                closes = True
                with self._lock:
                    self.lost.append(f"{error!r} after {time.monotonic() - begun:.2f} s")
            else:
                with self._lock:
                    self.answered += 1
                    self.slowest = max(self.slowest, time.monotonic() - begun)
            if closes and client is not None:
                client.sock.close()
                client = None
        if client is not None:
            client.sock.close()
