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


def pids(daemon: ProxyDaemon, role: str) -> list[int]:
    status = daemon.status()
    return [one["pid"] for one in (status["workers"] if role == "worker" else [status[role]])]


def strike(daemon: ProxyDaemon, event: str, chance: random.Random) -> int | None:
    """Does it; the process that must be gone before all is well again. Only a stopped worker is replaced: state and
    control are woken after a while, in which traffic must not notice that they sleep."""
    word, _, title = event.partition(" ")
    if word == "reload":
        daemon.ctl("reload", *(["--workers"] if title else []))
        return None
    pid = chance.choice(pids(daemon, title))
    os.kill(pid, signal.SIGKILL if word == "kill" else signal.SIGSTOP)
    if word == "stop" and title != "worker":
        threading.Event().wait(chance.uniform(0.2, 1.5))
        os.kill(pid, signal.SIGCONT)
        return None
    return pid


class Load:
    """Clients that connect, send a few requests and leave; counts how each request ended and the longest connect."""

    def __init__(self, daemon: ProxyDaemon) -> None:
        self.daemon, self.address = daemon, daemon.address()
        self.results: Counter[str] = Counter()
        self.longest = 0.0
        self.going = threading.Event()
        self.connects = [0] * CLIENTS
        self.threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        while not self.going.is_set():
            start = time.monotonic()
            self.connects[number] += 1
            try:
                with self.daemon.client(timeout=10) as client:
                    self.longest = max(self.longest, time.monotonic() - start)
                    for _ in range(20):
                        got = client.get()
                        self.results[str(got.status)] += 1
                        if got.header("connection") == "close":  # a worker that drains says so
                            break
            except (Closed, OSError, AssertionError) as error:
                self.results[f"lost: {type(error).__name__}"] += 1

    def lost(self) -> int:
        return sum(count for name, count in list(self.results.items()) if name.startswith("lost"))

    def told(self) -> None:
        """Returns when every client has counted what became of the connection that it has now."""
        before = list(self.connects)
        until(lambda: all(now > then for now, then in zip(self.connects, before, strict=True)), "all connect anew")

    def stop(self) -> None:
        self.going.set()
        for thread in self.threads:
            thread.join()


def test_chaos(vm: ScriptedVM) -> None:
    print(f"CHAOS_SEED={SEED}, {SECONDS:g} s")
    chance = random.Random(SEED)
    daemon = ProxyDaemon(workers={"count": 2, "slots": 2, "drain_timeout": "2s"}, allowed=["*"]).start()
    try:
        daemon.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
        load = Load(daemon)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            event, before = chance.choice(EVENTS), load.lost()
            struck = strike(daemon, event, chance)
            until(lambda struck=struck: settled(daemon, struck), f"all is well again after {event}", 20)
            load.told()
            lost = load.lost() - before
            print(f"{event}: {lost} lost")
            # Each client has one connection. Answered or not: nothing but the death of a worker may cost one.
            assert lost <= (CLIENTS if event.endswith(" worker") else 0), f"{event} lost {lost}: {load.results}"
        load.stop()
        print(dict(load.results), f"longest connect {load.longest:.3f} s")
        assert {name for name in load.results if not name.startswith("lost")} == {"200"}
        assert load.longest < CONNECT_MAX
    except BaseException:
        print(daemon.log(), daemon.ctl("status"), sep="\n")
        daemon.kill()
        raise
    daemon.stop(signal.SIGTERM)


def settled(daemon: ProxyDaemon, struck: int | None) -> bool:
    """The struck process is gone, and the master knows; state, control and two workers are ready, and no older worker
    is left."""
    status = daemon.status()
    all_of_them = [status["state"], status["control"], *status["workers"]]
    if struck in daemon.processes() or struck in [one["pid"] for one in all_of_them]:
        return False
    return [one["state"] for one in all_of_them] == ["ready"] * 4
