"""From the store to the table, for as long as the settings that matter stay the same.

    follow (one task for each scope) ──batches──▶ apply ──▶ guard ──▶ publisher ──▶ one commit
                                                    └─▶ ports to the master, report, last-known-good files
    measured round trips ──each second──▶ region_order ──▶ publisher ──▶ a commit when the order is another

A start first serves the last-known-good files, then goes on from where they end. While the store fails, what is in the
table stays; each scope tries again by itself. The table's revision is the lowest that all scopes have reached, so that
whoever waits for a revision can rely on all that is at or below it; the scopes of one store count together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from flyproxy import log
from flyproxy.state import last_good, region_order, report
from flyproxy.state.guard import Good, Guard, Place, Update
from flyproxy.state.own_host import OwnHost
from flyproxy.state.poison import Poison
from flyproxy.state.publish import Publisher, WantedPort, Writer
from flyproxy.state.records import GLOBAL, Host, Region, region_scope
from flyproxy.state.store import Batch, Cursor, CursorExpired, Snapshot, StateStore, StoreError

SAVE_EVERY = 10.0
RETRY_MIN, RETRY_MAX = 0.1, 5.0
COMMIT_AGAIN = 1.0
LOOK_AT_CLOSENESS = 1.0

Item = tuple[str, Batch | Snapshot]
Unsaved = tuple[str, Cursor, dict[str, Good]]


class Session:
    """Owns the guard, the publisher and the tasks; ``send`` takes the messages for the master.

    On a mesh ``own`` is this host's record and ``round_trips`` tells what is measured of each region, in µs.
    """

    def __init__(
        self, store: StateStore, writer: Writer, refusals: tuple[type[Exception], ...], state_dir: str, region: str,
        send: Callable[[dict[str, Any]], None], own: Host | None = None,
        round_trips: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self.store = store
        self.state_dir = state_dir
        self.send = send
        self.poison = Poison(state_dir)
        self.guard = Guard(poisoned=self.poison.poisoned, touching=self.poison.touching)
        self.publisher = Publisher(writer, self, refusals)
        self.own = OwnHost(store, own) if own else None
        self.round_trips = round_trips
        self.cursors: dict[str, Cursor] = {}
        self.scopes = {GLOBAL, region_scope(region)}
        self.revision = -1
        self.ready = False
        self._uncommitted = False
        self._saved: dict[str, Cursor] = {}
        self._order: list[str] = []
        self._ports: list[WantedPort] | None = None
        self._reported = report.read(state_dir)
        self._queue: asyncio.Queue[Item] = asyncio.Queue(100)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled. A failure of any part that is not the store's ends the session with that failure."""
        try:
            async with asyncio.TaskGroup() as group:
                self._reorder()
                self._restore()
                for scope in sorted(self.scopes):
                    self._follow(group, scope)
                group.create_task(self._save_often())
                if self.own is not None:
                    group.create_task(self.own.run())
                    group.create_task(self._follow_closeness())
                await self._apply_all(group)
        finally:
            with contextlib.suppress(OSError):
                self._save_now()
            self.poison.close()

    def touching(self, place: Place) -> None:
        """Witness of the publisher."""
        self.poison.touching(place, self.guard.revision(place))

    def refused(self, place: Place, reason: str) -> None:
        """Witness of the publisher."""
        self.guard.refuse(place, reason)

    def taken(self, place: Place) -> None:
        """Witness of the publisher."""
        self.guard.accept(place)

    def _restore(self) -> None:
        updates: list[Update] = []
        for scope in last_good.scopes(self.state_dir):
            saved, complaints = last_good.load(self.state_dir, scope)
            for complaint in complaints:
                log.warning("last-good-damaged", f"a last-known-good file is passed over: {complaint}")
            if saved is not None:
                updates += self.guard.restore(scope, saved.values)
                self.cursors[scope] = self._saved[scope] = saved.cursor
                self.scopes.add(scope)
        self.scopes |= _regions(updates)
        report.restore(self.guard, self._reported)
        if self.cursors:
            self._publish(updates)
            log.info("last-good", f"serving {len(updates)} records as last known", revision=self.revision)

    async def _apply_all(self, group: asyncio.TaskGroup) -> None:
        while True:
            items = await self._next_items()
            updates: list[Update] = []
            for scope, item in items:
                updates += self._judge(scope, item)
                self.cursors[scope] = item.cursor
                self._look_at_own(scope, item)
            for scope in sorted(_regions(updates)):
                self._follow(group, scope)
            self._publish(updates)

    async def _next_items(self) -> list[Item]:
        """All that waits, at least one; none after a while when a commit has to be tried again."""
        items = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMMIT_AGAIN if self._uncommitted else None):
                items.append(await self._queue.get())
        while not self._queue.empty():
            items.append(self._queue.get_nowait())
        return items

    def _judge(self, scope: str, item: Batch | Snapshot) -> list[Update]:
        if isinstance(item, Batch):
            return self.guard.changes(scope, item.changes)
        held = len(self.guard.held)
        updates = self.guard.snapshot(scope, item)
        if len(self.guard.held) > held:
            log.error("mass-removal-held", f"{len(self.guard.held)} records are missing from scope {scope}; they are "
                      "served on. If they were meant to go: stop flyproxy, remove the folder last-known-good, start it")
        return updates

    def _look_at_own(self, scope: str, item: Batch | Snapshot) -> None:
        if self.own is None or scope != GLOBAL:
            return
        if isinstance(item, Snapshot) or any(change.key == self.own.key for change in item.changes):
            self.own.look_again()

    async def _follow_closeness(self) -> None:
        """Before the first commit, and when that fails, the next one carries the new order."""
        while True:
            await asyncio.sleep(LOOK_AT_CLOSENESS)
            if self._reorder() and self.revision >= 0:
                self._commit(self.revision)

    def _reorder(self) -> bool:
        """Whether the regions are in another order than before; not yet visible to readers."""
        order = region_order.reordered(self._order, self.round_trips())
        if order == self._order:
            return False
        self._order = order
        self.publisher.writer.set_region_order(order)
        log.info("region-order", f"nearest first: {', '.join(order) or 'none is reached'}", regions=order)
        return True

    def _publish(self, updates: list[Update]) -> None:
        """One batch into the table, one commit; nothing is committed before every scope has been read once."""
        self.publisher.apply(updates)
        waiting = self.scopes - self.cursors.keys()
        if not waiting or self._saved or self.revision >= 0:
            # A scope that was just found holds the revision back until it is read too.
            reached = min(cursor.revision for cursor in self.cursors.values())
            revision = max(self.revision, 0) if waiting else reached
            if updates or self._uncommitted or revision != self.revision:
                self._commit(revision)
            if self.revision >= 0:
                self._tell()
        self.poison.done()

    def _commit(self, revision: int) -> None:
        try:
            self.publisher.commit(revision)
        except self.publisher.refusals as error:
            if not self._uncommitted:
                log.error("commit-failed", f"changes wait, the table stays as it is: {error}", revision=revision)
            self._uncommitted = True
            return
        self._uncommitted = False
        self.revision = revision

    def _tell(self) -> None:
        if not self.ready:
            self.ready = True
            self.send({"t": "ready"})
        if self.publisher.apps_changed:
            self.publisher.apps_changed = False
            ports = self.publisher.wanted_ports()
            if ports != self._ports:
                self._ports = ports
                self.send({"t": "ports", "ports": [port._asdict() for port in ports]})
        if self.guard.changed:
            self.guard.changed = False
            self._report(report.of(self.guard))

    def _report(self, now: report.Report) -> None:
        known = {(entry.scope, entry.key, entry.revision) for entry in self._reported.quarantined}
        self._reported = now
        for entry in now.quarantined:
            if (entry.scope, entry.key, entry.revision) not in known:
                log.warning("quarantined", f"{entry.key} is not served: {entry.reason}", scope=entry.scope,
                            key=entry.key, revision=entry.revision)
        try:
            report.write(self.state_dir, now)
        except OSError as error:
            log.warning("report-failed", f"{report.FILE} cannot be written: {error.strerror}")

    def _follow(self, group: asyncio.TaskGroup, scope: str) -> None:
        if scope not in self._tasks:
            self.scopes.add(scope)
            self._tasks[scope] = group.create_task(self._follow_scope(scope, self.cursors.get(scope)))

    async def _follow_scope(self, scope: str, cursor: Cursor | None) -> None:
        pause = 0.0
        while True:
            try:
                if cursor is None:
                    snapshot = await self.store.snapshot(scope)
                    cursor = snapshot.cursor
                    await self._queue.put((scope, snapshot))
                async for batch in self.store.watch(scope, cursor):
                    if pause:
                        log.info("store-back", f"scope {scope} can be read again", scope=scope)
                        pause = 0.0
                    cursor = batch.cursor
                    await self._queue.put((scope, batch))
                return
            except CursorExpired as error:
                log.warning("cursor-expired", f"reading all of scope {scope} again: {error}", scope=scope)
                cursor = None
            except StoreError as error:
                if not pause:
                    log.error("store-failed", f"scope {scope} cannot be read, serving what is known: {error}",
                              scope=scope, code=error.code)
                pause = min(max(pause * 2, RETRY_MIN), RETRY_MAX)
                await asyncio.sleep(random.uniform(pause / 2, pause))

    async def _save_often(self) -> None:
        failed = False
        while True:
            await asyncio.sleep(SAVE_EVERY)
            try:
                await asyncio.get_running_loop().run_in_executor(None, self._save, self._unsaved())
                failed = False
            except OSError as error:
                if not failed:
                    log.warning("last-good-failed", f"last-known-good files cannot be written: {error}")
                failed = True

    def _save_now(self) -> None:
        if self.revision >= 0:
            self._save(self._unsaved())

    def _unsaved(self) -> list[Unsaved]:
        """The scopes that have moved since they were saved, as they are now."""
        return [
            (scope, cursor, dict(self.guard.good.get(scope, {})))
            for scope, cursor in self.cursors.items() if _moved(self._saved.get(scope), cursor)
        ]

    def _save(self, work: list[Unsaved]) -> None:
        for scope, cursor, good in work:
            last_good.save(self.state_dir, scope, cursor, ((key, one.value, one.revision) for key, one in good.items()))
            self._saved[scope] = cursor


def _moved(saved: Cursor | None, cursor: Cursor) -> bool:
    return saved is None or (saved.epoch, saved.revision) != (cursor.epoch, cursor.revision)


def _regions(updates: list[Update]) -> set[str]:
    """The scopes of the regions among the records."""
    records = (update.good.record for update in updates if update.good is not None)
    return {region_scope(record.code) for record in records if isinstance(record, Region)}
