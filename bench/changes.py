"""The process that makes changes: commits them by a fixed schedule, whatever becomes of them, and says when each was.

    python -m bench.changes DATABASE COUNT PER_SECOND APPS PORT FIRST

Prints JSON: for each change its revision and, in ns of CLOCK_MONOTONIC, when it was due, and when its commit ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from flyproxy.apps.model import Concurrency, Port, Service
from flyproxy.state import commands
from flyproxy.state.commands import Revision
from flyproxy.state.sqlite import SqliteStore
from tests.kit import world

LEAD_S = 0.5    # from the start of the process to the first change
T = TypeVar("T")


class TimedStore(SqliteStore):
    """``committed``: when the commit of each revision had ended, in ns, taken in the thread that made it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.committed: dict[int, int] = {}

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def timed() -> T:
            result = work()
            if isinstance(result, int):
                self.committed[result] = time.monotonic_ns()
            return result

        return await super()._in_thread(timed)


def change(store: SqliteStore, number: int, apps: int, port: int) -> Coroutine[Any, Any, Revision]:
    """The number-th change: one of four kinds, each to another record than any change near it."""
    kind, turn = number % 4, number // 4
    n, again = turn % apps, turn // apps
    if kind == 0:
        return commands.add_hostname(store, f"change-{number}.test", world.name(n))
    if kind == 1:
        return commands.cordon(store, f"m-{n}-0", cordoned=again % 2 == 0)
    if kind == 2:
        moved = f"{world.network(n)}{100 + again % 100}"
        return commands.add_machine(store, world.name(n), moved, port=port, region=world.REGION, host="", id=f"m-{n}-1")
    service = Service("tcp", 8080, (Port(80, 80, ("http",)),), Concurrency("requests", 21 + again))
    return commands.apply_app(store, world.app(world.name(n), service))


async def run(database: str, count: int, per_second: int, apps: int, port: int, first: int) -> dict[str, list[int]]:
    store = TimedStore(database)
    start = time.monotonic_ns() + int(LEAD_S * 1e9)
    due = [start + number * 1_000_000_000 // per_second for number in range(count)]
    running = []
    for number, at in enumerate(due):
        await asyncio.sleep(max(0, at - time.monotonic_ns()) / 1e9)
        running.append(asyncio.create_task(change(store, first + number, apps, port)))
    revisions = await asyncio.gather(*running)
    assert all(revision.changed for revision in revisions), "a change that changed nothing measures nothing"
    await store.close()
    return {"due": due, "committed": [store.committed[one] for one in revisions], "revision": [*map(int, revisions)]}


if __name__ == "__main__":
    json.dump(asyncio.run(run(sys.argv[1], *map(int, sys.argv[2:]))), sys.stdout)
