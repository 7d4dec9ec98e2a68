"""Whether state and control still answer: asked over their channels, and for how long one has owed an answer.

A process that is stopped, or waits for what never comes, owes its answer without doing anything; one that builds a
large table owes it too, but works. Its CPU time tells them apart (fields 14 and 15 of /proc/PID/stat, proc(5)).
"""

from __future__ import annotations

import os
from pathlib import Path

from flyproxy.master.model import Silence

ASK_EVERY = 1.0  # seconds
WORKING = 0.1  # of the time that it was silent: less than this on a CPU is not working
_TICKS = os.sysconf("SC_CLK_TCK")


class Pulse:
    """Of one process; ``now`` is CLOCK_MONOTONIC in seconds."""

    def __init__(self, pid: int, now: float) -> None:
        self._pid = pid
        self._next_at = now + ASK_EVERY
        self._asked_at: float | None = None
        self._cpu_at = 0.0

    def due(self, now: float) -> bool:
        """Whether to ask now; who owes an answer is not asked again."""
        if self._asked_at is not None or now < self._next_at:
            return False
        self._next_at = now + ASK_EVERY
        self._ask(now)
        return True

    def answered(self) -> None:
        self._asked_at = None

    def forgive(self, now: float) -> None:
        """The master itself was held up, and maybe the whole machine: the time until now does not count."""
        if self._asked_at is not None:
            self._ask(now)

    def silence(self, now: float) -> Silence:
        if self._asked_at is None:
            return Silence(0.0, working=False)
        seconds = now - self._asked_at
        working = seconds >= ASK_EVERY and cpu_seconds(self._pid) - self._cpu_at > WORKING * seconds
        return Silence(seconds, working)

    def _ask(self, now: float) -> None:
        self._asked_at, self._cpu_at = now, cpu_seconds(self._pid)


def cpu_seconds(pid: int) -> float:
    """What a process has used of the CPUs; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
