"""How long a change takes from the store into the VM table, and how long a full load takes.

Run with: python -m pytest bench/micro/test_state.py -s. The bound at the end is what the project promises.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from flyproxy.apps.model import VERSION
from flyproxy.state import commands
from flyproxy.state.records import Machine, Region, encode
from flyproxy.state.sqlite import SqliteStore
from tests.state.fakes import http_app
from tests.state.process import Segments, StateProcess

CHANGES = 2000
PER_SECOND = 400
APPS, MACHINES = 1000, 10


def percentiles(values: list[float]) -> str:
    ordered = sorted(values)
    picks = ((name, ordered[min(len(ordered) - 1, int(len(ordered) * share))])
             for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)))
    return "  ".join(f"{name} {value:.2f} ms" for name, value in picks)


async def fill(store: SqliteStore) -> int:
    """APPS apps with MACHINES machines each, written straight into the file; the last revision."""
    await store.put("g", "region.ams", encode(Region(VERSION, "ams")))
    with store._writing.transaction("IMMEDIATE") as connection:
        for n in range(APPS):
            app = http_app(f"app-{n}", port=8080)
            last = store._store(connection, "g", f"app.app-{n}", encode(app), None)
            for m in range(MACHINES):
                machine = Machine(VERSION, f"m-{n}-{m}", f"app-{n}", f"10.{n >> 8}.{n & 255}.{m + 1}", 0, "ams", "")
                last = store._store(connection, "r-ams", f"machine.{machine.id}", encode(machine), None)
    return last


def test_a_thousand_apps_are_loaded_and_changes_reach_the_table_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        segments = Segments(machines=20_000, apps=2000)
        last = await fill(store)
        begun = time.monotonic()
        async with StateProcess(tmp_path, segments) as state:
            await state.until(lambda: segments.reader.revision >= last)
            loaded = time.monotonic() - begun
            assert len(segments.reader.machines()) == APPS * MACHINES
            delays, writes = await change_often(store, segments)
            state.channel.send({"t": "stop"})
            await state.ended()
        begun = time.monotonic()
        async with StateProcess(tmp_path, segments) as state:
            await state.ready()
            again = time.monotonic() - begun
        await store.close()
        segments.close()
        print(f"\n{APPS} apps x {MACHINES} machines: {loaded:.2f} s from start of the process to the table; "
              f"{again:.2f} s from the last-known-good files")
        print(f"{CHANGES} changes at {PER_SECOND}/s, commit to table: {percentiles(delays)}")
        print(f"the same with the write itself: {percentiles(writes)}")
        assert len(delays) == CHANGES
        assert sorted(delays)[int(CHANGES * 0.99)] < 50

    asyncio.run(work())


async def change_often(store: SqliteStore, segments: Segments) -> tuple[list[float], list[float]]:
    """Milliseconds from the commit, and from before the write, until the table's commit; by a fixed schedule."""
    delays, writes = [], []
    await commands.require_machine(store, "m-0-0")
    start = time.monotonic()
    for n in range(CHANGES):
        await asyncio.sleep(max(0.0, start + n / PER_SECOND - time.monotonic()))
        machine = Machine(VERSION, f"m-{n % 100}-0", f"app-{n % 100}", "10.0.0.1", 0, "ams", "", bool(n // 100 % 2))
        before = time.monotonic_ns()
        revision = await store.put("r-ams", f"machine.{machine.id}", encode(machine))
        committed = time.monotonic_ns()
        while segments.reader.revision < revision:
            await asyncio.sleep(0)
        published = segments.reader.published_ns
        delays.append(max(0, published - committed) / 1e6)
        writes.append((published - before) / 1e6)
    return delays, writes
