"""What every StateStore promises. A backend's test module subclasses StoreConformance and gives it ``opened``.

Each test is a coroutine run in a fresh loop. Waiting is always for a batch, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from flyproxy.state.store import Batch, Change, Conflict, Cursor, CursorExpired, StateStore, StoreError

PATIENCE = 10.0


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE * 2):
            return await work
    return asyncio.run(bounded())


class Watched:
    """Collects what a watch yields."""

    def __init__(self, store: StateStore, scope: str, cursor: Cursor) -> None:
        self.iterator = store.watch(scope, cursor).__aiter__()
        self.changes: list[Change] = []
        self.cursor = cursor

    async def next(self) -> Batch:
        async with asyncio.timeout(PATIENCE):
            batch = await anext(self.iterator)
        self.changes += batch.changes
        self.cursor = batch.cursor
        return batch

    async def until(self, condition: Callable[[list[Change]], bool]) -> list[Change]:
        while not condition(self.changes):
            await self.next()
        return self.changes

    async def close(self) -> None:
        await self.iterator.aclose()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def watching(store: StateStore, scope: str, cursor: Cursor | None = None) -> AsyncIterator[Watched]:
    watched = Watched(store, scope, cursor or (await store.snapshot(scope)).cursor)
    try:
        yield watched
    finally:
        await watched.close()


class StoreConformance(ABC):
    """Two stores opened on one place see the same data."""

    @pytest.fixture
    def place(self, tmp_path: Any) -> Any:
        return tmp_path

    @abstractmethod
    def opened(self, place: Any) -> StateStore:
        """A store on ``place``."""

    @abstractmethod
    async def expire_cursors(self, store: StateStore) -> None:
        """Makes the store forget its tombstones."""

    @abstractmethod
    def replace(self, place: Any) -> None:
        """Makes the store at ``place`` a new, empty one."""

    @contextlib.asynccontextmanager
    async def stores(self, place: Any, count: int = 1) -> AsyncIterator[list[StateStore]]:
        stores = [self.opened(place) for _ in range(count)]
        try:
            yield stores
        finally:
            for store in stores:
                await store.close()

    def test_put_get_and_snapshot_agree_on_value_and_revision(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                assert await store.get("g", "app.a") is None
                first = await store.put("g", "app.a", b"one")
                second = await store.put("g", "app.a", b"two")
                assert second > first
                assert await store.get("g", "app.a") == (b"two", second)
                snapshot = await store.snapshot("g")
                assert snapshot.values == {"app.a": (b"two", second)}
                assert snapshot.cursor.revision >= second
        run(work())

    def test_a_snapshot_can_be_of_what_is_below_a_prefix(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                for key in ("app.a", "app.z-9_", "app", "apps.a", "a", "z"):
                    await store.put("g", key, b"v")
                assert (await store.snapshot("g", "app.")).values.keys() == {"app.a", "app.z-9_"}
        run(work())

    def test_scopes_are_apart(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                await store.put("g", "app.a", b"global")
                async with watching(store, "g") as watched:
                    await store.put("r-ams", "app.a", b"regional")
                    last = await store.put("g", "app.b", b"x")
                    await watched.until(lambda changes: bool(changes))
                    assert watched.changes == [Change("app.b", b"x", last)]
                assert (await store.snapshot("r-ams")).values.keys() == {"app.a"}
        run(work())

    def test_compare_and_set(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                created = await store.put("g", "k", b"1", prev=0)
                with pytest.raises(Conflict) as conflict:
                    await store.put("g", "k", b"2", prev=0)
                assert conflict.value.revision == created
                with pytest.raises(Conflict):
                    await store.put("g", "k", b"2", prev=created + 7)
                with pytest.raises(Conflict):
                    await store.delete("g", "k", prev=created + 7)
                updated = await store.put("g", "k", b"2", prev=created)
                await store.delete("g", "k", prev=updated)
                assert await store.get("g", "k") is None
                assert await store.put("g", "k", b"3", prev=0) > updated
        run(work())

    def test_of_many_concurrent_increments_none_is_lost(self, place: Any) -> None:
        async def increment(store: StateStore) -> None:
            for _ in range(10):
                while True:
                    value, revision = await store.get("g", "n") or (b"0", 0)
                    with contextlib.suppress(Conflict):
                        await store.put("g", "n", str(int(value) + 1).encode(), prev=revision)
                        break

        async def work() -> None:
            async with self.stores(place, 4) as stores:
                await asyncio.gather(*map(increment, stores))
                value, _ = await stores[0].get("g", "n") or (b"", 0)
                assert value == b"40"
        run(work())

    def test_a_watch_delivers_every_later_change_in_order(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place, 2) as (reader, writer), watching(reader, "g") as watched:
                wanted = [
                    Change(f"k{n}", str(n).encode(), await writer.put("g", f"k{n}", str(n).encode()))
                    for n in range(50)
                ]
                await watched.until(lambda changes: len(changes) >= 50)
                assert watched.changes == wanted
                assert watched.cursor.revision >= wanted[-1].revision
        run(work())

    def test_a_watch_says_at_once_that_it_is_caught_up(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                last = await store.put("g", "k", b"v")
                async with watching(store, "g") as watched:
                    batch = await watched.next()
                    assert batch.changes == []
                    assert batch.cursor.revision >= last
        run(work())

    def test_a_watch_resumes_from_a_cursor_with_the_newest_values_and_tombstones(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                await store.put("g", "gone", b"x")
                cursor = (await store.snapshot("g")).cursor
                await store.put("g", "k", b"old")
                newest = await store.put("g", "k", b"new")
                deleted = await store.delete("g", "gone")
            async with self.stores(place) as (again,), watching(again, "g", cursor) as watched:
                await watched.until(lambda changes: len(changes) == 2)
                assert watched.changes == [Change("k", b"new", newest), Change("gone", None, deleted)]
        run(work())

    def test_a_long_backlog_arrives_whole(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                start = (await store.snapshot("g")).cursor
                for n in range(1100):
                    await store.put("g", f"k{n}", b"v")
                async with watching(store, "g", start) as watched:
                    await watched.until(lambda changes: len(changes) >= 1100)
                    assert [change.key for change in watched.changes] == [f"k{n}" for n in range(1100)]
        run(work())

    def test_deleting_what_is_not_there_leaves_a_tombstone(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,), watching(store, "g") as watched:
                deleted = await store.delete("g", "never")
                await watched.until(bool)
                assert watched.changes == [Change("never", None, deleted)]
        run(work())

    def test_a_cursor_behind_the_tombstones_expires(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                await store.put("g", "k", b"v")
                cursor = (await store.snapshot("g")).cursor
                await store.delete("g", "k")
                await store.put("g", "other", b"v")
                await self.expire_cursors(store)
                with pytest.raises(CursorExpired):
                    async with watching(store, "g", cursor) as watched:
                        await watched.next()
                fresh = await store.snapshot("g")
                assert fresh.values.keys() == {"other"}
                async with watching(store, "g", fresh.cursor) as watched:
                    assert (await watched.next()).changes == []
        run(work())

    def test_cursors_from_the_future_or_of_another_store_expire(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                cursor = (await store.snapshot("g")).cursor
                for wrong in (
                    Cursor(cursor.epoch, cursor.revision + 1000, 0.0), Cursor("another", cursor.revision, 0.0),
                ):
                    with pytest.raises(CursorExpired):
                        async with watching(store, "g", wrong) as watched:
                            await watched.next()
        run(work())

    def test_a_running_watch_notices_that_the_store_was_replaced(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                await store.put("g", "k", b"v")
                async with watching(store, "g") as watched:
                    await watched.next()
                    self.replace(place)
                    with pytest.raises(CursorExpired):
                        while True:
                            await watched.next()
                assert (await store.snapshot("g")).values == {}
        run(work())

    def test_a_key_with_a_time_to_live_deletes_itself_before_the_watchers_eyes(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place, 2) as (store, other):
                async with watching(store, "g") as watched:
                    await other.put("g", "lock", b"me", ttl=1.0)
                    await watched.until(lambda changes: len(changes) >= 2)
                assert [(change.key, change.value) for change in watched.changes] == [("lock", b"me"), ("lock", None)]
                assert await other.get("g", "lock") is None
                await other.put("g", "lock", b"you", prev=0)
        run(work())

    def test_a_new_value_ends_the_time_to_live_of_the_old_one(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                kept = await store.put("g", "lock", b"me", ttl=1.0)
                kept = await store.put("g", "lock", b"me", prev=kept)
                async with watching(store, "g") as watched:
                    await store.put("g", "clock", b"x", ttl=1.5)
                    await watched.until(lambda changes: len(changes) >= 2)
                assert await store.get("g", "lock") == (b"me", kept)
        run(work())

    @pytest.mark.parametrize("key", ["", "a..b", ".a", "a.", "a b", "app.*", "über", "A", "x" * 400, "a/b"])
    def test_keys_that_other_stores_could_not_hold_are_refused(self, place: Any, key: str) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                with pytest.raises(ValueError, match="not a key"):
                    await store.put("g", key, b"v")
                with pytest.raises(ValueError, match="not a key"):
                    await store.put(key, "app.a", b"v")
        run(work())

    def test_values_hold_any_bytes_up_to_64_kib(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place) as (store,):
                for value in (b"", b"\0\xff\n", bytes(65536)):
                    revision = await store.put("g", "k", value)
                    assert await store.get("g", "k") == (value, revision)
                with pytest.raises(StoreError) as refused:
                    await store.put("g", "k", bytes(65537))
                assert refused.value.code == "record-too-large"
        run(work())

    def test_published_messages_reach_the_subscribers_of_their_prefix(self, place: Any) -> None:
        async def work() -> None:
            async with self.stores(place, 2) as (sender, receiver):
                heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
                await receiver.subscribe("ld.", lambda topic, data: heard.put_nowait((topic, data)))
                await sender.publish("other", b"x")
                await sender.publish("ld.ams.h1", b"\0\x01")
                async with asyncio.timeout(PATIENCE):
                    assert await heard.get() == ("ld.ams.h1", b"\0\x01")
                assert heard.empty()
        run(work())

    def test_closing_a_store_ends_its_watches(self, place: Any) -> None:
        async def work() -> None:
            store = self.opened(place)
            watched = Watched(store, "g", (await store.snapshot("g")).cursor)
            await watched.next()
            waiting = asyncio.ensure_future(watched.next())
            await asyncio.sleep(0)
            await store.close()
            with pytest.raises(StopAsyncIteration):
                await waiting
        run(work())
