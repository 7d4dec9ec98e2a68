"""Tables of any size for the micro-benchmarks: apps of ten machines (or as asked), one hostname each, one region."""

from __future__ import annotations

import os
import random
from array import array
from itertools import accumulate
from typing import Any

from flyproxy._speedups._testing_shm import Worker
from flyproxy._speedups.shm import beat
from flyproxy._speedups.shm.counters import CounterReader
from flyproxy._speedups.shm.table import TableWriter

ADDRESS = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"


def service(balance: str = "least", hard_limit: int = 100) -> dict[str, Any]:
    port = {"start": 80, "end": 80, "handlers": ["http"]}
    return {
        "internal_port": 8080,
        "concurrency": "requests",
        "soft_limit": 20,
        "hard_limit": hard_limit,
        "balance": balance,
        "ports": [port],
    }


class Bench:
    """Segments, a writer and one worker over them."""

    def __init__(self, machines: int, per_app: int = 10, balance: str = "least") -> None:
        apps = max(machines // per_app, 1)
        self.fds = beat.create_segments(
            apps=apps, hostnames=apps, addresses=1, machines=machines + 1000, procs=4, slots=1
        )
        self.root = beat.Root(self.fds, True)
        self.root.claim_proc(0, os.getpid())
        self.writer = TableWriter(self.fds, {}, "yyz", "bench", b"0123456789abcdef")
        self.writer.reset()
        self.hosts = [f"app-{i}.example.com".encode() for i in range(apps)]
        for i in range(apps):
            self.writer.put_app(f"app-{i}", [service(balance)])
            self.writer.put_hostname(self.hosts[i].decode(), f"app-{i}")
        for i in range(machines):
            self.put(i, f"app-{i // per_app % apps}")
        self.revision = 1
        self.writer.commit(1)
        self.worker = Worker(self.fds, 0)
        self.worker.enter()

    def put(self, i: int, app: str, health: str = "passing") -> None:
        self.writer.put_machine(f"{i:014x}", app, ADDRESS, 8080, "yyz", "bench", health, False)

    def commit(self) -> None:
        self.revision += 1
        self.writer.commit(self.revision)

    def order(self, shape: str, n: int) -> bytes:
        """`n` indexes of hosts as uint32: "zipf" (exponent 1) or "uniform"."""
        rng = random.Random(1)
        count = len(self.hosts)
        if shape == "uniform":
            return array("I", (rng.randrange(count) for _ in range(n))).tobytes()
        ranks = list(range(count))
        rng.shuffle(ranks)
        weights = list(accumulate(1 / (k + 1) for k in range(count)))
        return array("I", rng.choices(ranks, cum_weights=weights, k=n)).tobytes()

    def another_worker(self, proc: int) -> Worker:
        return Worker(self.fds, proc)

    def counters(self) -> CounterReader:
        return CounterReader(self.fds)

    def close(self) -> None:
        self.worker.leave()
        for fd in self.fds.values():
            os.close(fd)
