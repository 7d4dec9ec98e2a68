"""Processes are killed and stopped at random under load: only what a struck worker held is lost, service never ends.

`make chaos SECONDS=60`; CHAOS_SEED replays a run.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.client import Closed
from tests.kit.daemon import ProxyDaemon
from tests.kit.vm import ScriptedVM
from tests.kit.wait import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(0)]
SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 1 << 32)
CONNECT_MAX = 1.0  # seconds: no connect waits longer, whatever dies
CLIENTS = 6
EVENTS = (
    "kill worker",
    "stop worker",
    "kill state",
    "kill control",
    "stop state",
    "stop control",
    "reload",
    "reload workers",
)


@pytest.fixture
def vm() -> Iterator[ScriptedVM]:
    made = ScriptedVM()
    yield made
    made.stop()


def titled(daemon: ProxyDaemon, title: str) -> list[int]:
    return [
        pid
        for pid in daemon.processes()
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"flyproxy: {title}".encode())
    ]


def strike(daemon: ProxyDaemon, event: str, chance: random.Random) -> bool:
    """Does it; True when it costs the connections of one worker."""
    word, _, title = event.partition(" ")
    if word == "reload":
        daemon.ctl("reload", *(["--workers"] if title else []))
        return False
    pids = titled(daemon, title)
    if not pids:
        return False
    os.kill(chance.choice(pids), signal.SIGKILL if word == "kill" else signal.SIGSTOP)
    return title == "worker"


class Load:
    """Clients that connect, send a few requests and leave; counts how each request ended and the longest connect."""

    def __init__(self, daemon: ProxyDaemon) -> None:
        self.daemon, self.address = daemon, daemon.address()
        self.results: Counter[str] = Counter()
        self.longest = 0.0
        self.going = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        while not self.going.is_set():
            start = time.monotonic()
            try:
                with self.daemon.client(timeout=10) as client:
                    self.longest = max(self.longest, time.monotonic() - start)
                    for _ in range(20):
                        self.results[str(client.get().status)] += 1
            except (Closed, OSError, AssertionError) as error:
                self.results[f"lost: {type(error).__name__}"] += 1

    def stop(self) -> None:
        self.going.set()
        for thread in self.threads:
            thread.join()


def test_chaos(vm: ScriptedVM) -> None:
    print(f"CHAOS_SEED={SEED}, {SECONDS:g} s")
    chance = random.Random(SEED)
    daemon = ProxyDaemon(workers={"count": 2, "slots": 2, "drain_timeout": "2s"}).start()
    try:
        daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
        load = Load(daemon)
        struck, strikes = 0, Counter[str]()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            event = chance.choice(EVENTS)
            try:
                struck += strike(daemon, event, chance)
                strikes[event] += 1
            except AssertionError as error:  # a reload may meet a dead control or a worker that never gets ready
                strikes[f"{event} refused"] += 1
                print(f"{event}: {error}")
            until(lambda: settled(daemon), f"all processes are back after {event}", 20)
        load.stop()
        print(dict(strikes), dict(load.results), f"longest connect {load.longest:.3f} s")
        lost = sum(count for name, count in load.results.items() if name.startswith("lost"))
        assert set(load.results) - {name for name in load.results if name.startswith("lost")} == {"200"}
        assert lost <= struck * CLIENTS, "only connections of a struck worker may be lost"
        assert load.longest < CONNECT_MAX
    except BaseException:
        print(daemon.log())
        daemon.kill()
        raise
    daemon.allowed = ["*"]
    daemon.stop(signal.SIGTERM)


def settled(daemon: ProxyDaemon) -> bool:
    """Master, state, control and both workers live and are not stopped."""
    ready = [worker for worker in daemon.ctl("workers") if worker["state"] == "ready"]
    alive = all(
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T" for pid in daemon.processes()
    )
    return len(ready) == 2 and len(titled(daemon, "state")) == len(titled(daemon, "control")) == 1 and alive
