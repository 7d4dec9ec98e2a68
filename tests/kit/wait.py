"""Waiting for a condition with a deadline; nothing in the tests sleeps for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 10.0
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
