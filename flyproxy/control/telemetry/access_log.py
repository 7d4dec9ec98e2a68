"""Drains the workers' access-log rings into the sink. Runs in a thread of its own: a disk that blocks stops only this.

The ring of a worker that died is drained like a living one: its last lines are still there. When the sink is slower
than the traffic, rings fill and the workers drop lines and count them per app; nothing here grows.
"""

from __future__ import annotations

import threading
import time

from flyproxy import log
from flyproxy.control.telemetry.sinks import Rings, Sink, open_sink

LOOK = 0.1          # seconds from a look that found little to the next: a ring holds 0.2 s of lines at full load
HURRY = 0.5         # the fuller a ring was, the sooner the next look; from here on (of 1) at once
TELL_EVERY = 1.0    # seconds


class AccessLog:
    """Start it once; ``configure`` switches the sink while it runs. With access "off" nothing is drained."""

    def __init__(self, rings: Rings, access: str) -> None:
        self.rings = rings
        self.access = access
        self.sink: Sink | None = open_sink(access)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._told: str | None = None
        self._tell_after = 0.0
        self._before = (0, 0)

    def start(self) -> None:
        self._thread.start()

    def configure(self, access: str) -> None:
        """New settings, or SIGHUP: another sink, or the same one opened again. Waits for a write that is under way."""
        with self._lock:
            if access != self.access:
                self._before = self.counts()
                if self.sink is not None:
                    self.sink.close()
                self.access, self.sink = access, open_sink(access)
            elif self.sink is not None:
                self.sink.reopen()
        self._wake.set()

    def stop(self, timeout: float = 2.0) -> None:
        """Drain what is there and end; a sink that blocks is left after ``timeout`` seconds."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout)

    def counts(self) -> tuple[int, int]:
        """Lines (written, lost) since the start."""
        written, lost = self._before
        sink = self.sink
        return (written, lost) if sink is None else (written + sink.written, lost + sink.lost)

    def _run(self) -> None:
        while True:
            stopping = self._stopping
            with self._lock:
                off = self.sink is None
                full = 0.0 if off else self._drain()
            if stopping and not full:
                return
            if full < HURRY and not stopping:
                self._wake.wait(None if off else LOOK * (1 - full / HURRY))
                self._wake.clear()

    def _drain(self) -> float:
        """Moves what is in the rings on; returns how full the fullest was."""
        assert self.sink is not None
        full = self.rings.fullest()
        if full:
            self.sink.drain(self.rings)
            self._tell(self.sink.problem)
        return full

    def _tell(self, problem: str | None) -> None:
        """One log event when the sink begins to fail and one when it works again; not more often than TELL_EVERY."""
        now = time.monotonic()
        if (problem is None) == (self._told is None) or now < self._tell_after:
            return
        self._tell_after = now + TELL_EVERY
        if problem is not None:
            log.warning("access-log-failing", f"access-log lines are lost: {problem}", access=self.access,
                        fix="free space or mend the path; lines are written again by themselves")
        else:
            log.info("access-log-recovered", "access-log lines are written again", access=self.access)
        self._told = problem
