"""Waiting for a condition with a deadline; nothing in the tests sleeps for a guess."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE_S = 20.0
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, patience: float = PATIENCE_S, every: float = 0.01) -> T:
    """The first true value of ``condition``; AssertionError naming ``what`` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience} s: {what} (last: {value!r})"
        time.sleep(every)


def stand_still(pid: int) -> None:
    """SIGSTOP, and every thread has stopped: kill(2) returns before the others have heard of it."""
    os.kill(pid, signal.SIGSTOP)
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    until(lambda: all(_state(thread) == "T" for thread in threads), f"process {pid} stands still", every=0.001)


def _state(thread: Path) -> str:
    """The letter after the name in parentheses (proc(5))."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]
