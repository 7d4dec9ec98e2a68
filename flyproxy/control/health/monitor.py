"""Runs the plan: probes what is due, judges, and writes a machine's health when it changed.

The records are read again when the table's revision has moved, but never so often that reading them takes more than a
small share of the time. A write that fails is not remembered as done, so the next result tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from flyproxy import log
from flyproxy.apps.model import App
from flyproxy.control.health.judge import Health, Judge
from flyproxy.control.health.plan import Check, Plan
from flyproxy.control.health.probe import probe
from flyproxy.control.health.targets import Machine, checks_of, ours

PROBES_AT_ONCE = 256        # sockets that probes may hold
LOOK = 0.25                 # seconds between two looks at the revision
READ_SHARE = 20             # after a reading that took t seconds, the next one waits 20 t


class Records(NamedTuple):
    """What the store holds now, by name."""

    apps: Mapping[str, App]
    machines: Iterable[Machine]


class Monitor:
    """``run`` until cancelled. ``read`` gives the records, ``revision`` the table's; ``write`` stores a health and why.
    """

    def __init__(self, host: str, revision: Callable[[], int], read: Callable[[], Awaitable[Records]],
                 write: Callable[[str, Health, str], Awaitable[object]]) -> None:
        self.host = host
        self.revision = revision
        self.read = read
        self.write = write
        self.plan = Plan()
        self.judge = Judge()
        self.recorded: dict[str, Health] = {}
        self.probes: Counter[str] = Counter()
        self._room = asyncio.Semaphore(PROBES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: int | None = None
        self._read_after = 0.0

    def healths(self) -> dict[str, int]:
        """How many machines with checks there are of each health."""
        return Counter(map(self.judge.health, self.judge.machines))

    async def run(self) -> None:
        try:
            while True:
                await self._refresh()
                for check in self.plan.take_due(time.monotonic()):
                    task = asyncio.create_task(self._check(check))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                due = self.plan.next_due()
                pause = LOOK if due is None else min(max(due - time.monotonic(), 0.0), LOOK)
                await asyncio.sleep(pause)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _refresh(self) -> None:
        """Follow the records. A store that cannot be read leaves the plan as it is."""
        revision, begun = self.revision(), time.monotonic()
        if revision == self._seen or begun < self._read_after:
            return
        try:
            records = await self.read()
        except Exception as error:  # noqa: BLE001  whatever the store raises, the checks that are known go on
            log.warning("health-records", f"the records cannot be read, known checks go on: {error}")
            self._read_after = begun + 1.0
            return
        self._seen = revision
        await self._follow(records)
        now = time.monotonic()
        self._read_after = now + READ_SHARE * (now - begun)

    async def _follow(self, records: Records) -> None:
        machines = ours(records.machines, self.host)
        self.recorded = {machine.id: machine.health for machine in machines}
        checks = [check for machine in machines for check in checks_of(machine, records.apps)]
        self.plan.replace(checks, time.monotonic())
        self.judge.replace((check.machine, check.name, self.recorded[check.machine]) for check in checks)
        checked = {check.machine for check in checks}
        for machine, health in list(self.recorded.items()):
            if machine not in checked and health != "unknown":
                await self._record(machine, "unknown", "it has no checks any more")

    async def _check(self, check: Check) -> None:
        async with self._room:
            problem = await probe(check)
        self.probes["passed" if problem is None else "failed"] += 1
        if self.plan.finished(check, time.monotonic()):
            health = self.judge.result(check.machine, check.name, problem)
            if health != self.recorded.get(check.machine):
                await self._record(check.machine, health, self.judge.why(check.machine))

    async def _record(self, machine: str, health: Health, why: str) -> None:
        try:
            await self.write(machine, health, why)
        except Exception as error:  # noqa: BLE001  the store may be away; the next result tries again
            log.warning("health-write", f"the health of machine {machine} cannot be stored: {error}", machine=machine)
            return
        self.recorded[machine] = health
        tell = log.warning if health == "critical" else log.info
        tell("health", f"machine {machine} is {health}" + (f": {why}" if why else ""), machine=machine, health=health)
