"""A write is answered once everybody serves it: the table holds its revision and every worker's engine has read it.

Draining workers count, because they still answer requests; starting ones do not, because they begin with the table as
it is. Read from the shared beats, so nobody has to be asked and a stopped worker cannot hold the question up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

DEADLINE = 5.0          # seconds
FIRST_LOOK = 0.001
LONGEST_LOOK = 0.02
SERVING = ("ready", "draining")
TABLE = "the table"


class Beat(Protocol):
    """What the beat of one process index tells."""

    @property
    def pid(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def revision(self) -> int: ...


class Beats(Protocol):
    """The root segment as control reads it."""

    def live(self) -> list[int]: ...
    def proc(self, proc: int) -> Beat: ...


class Behind(Exception):
    """The deadline passed; ``names`` are those that still serve something older. ``code`` tells whose fault it is."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.code = "table-behind" if names[0].startswith(TABLE) else "workers-behind"


def behind(beats: Beats, table_revision: Callable[[], int], revision: int) -> list[str]:
    """Who does not serve ``revision`` yet."""
    names = [] if table_revision() >= revision else [f"{TABLE} (revision {table_revision()})"]
    for proc in beats.live():
        beat = beats.proc(proc)
        if beat.state in SERVING and beat.revision < revision:
            names.append(f"worker process {beat.pid} (revision {beat.revision})")
    return names


async def served(beats: Beats, table_revision: Callable[[], int], revision: int, deadline: float = DEADLINE) -> None:
    """Returns once nobody is behind ``revision``; raises Behind after ``deadline`` seconds."""
    end, pause = time.monotonic() + deadline, FIRST_LOOK
    while names := behind(beats, table_revision, revision):
        if time.monotonic() >= end:
            raise Behind(names)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_LOOK)
