"""What the admin API serves: records from the store, live fields from shared memory and the master, the metrics page.

Joins ``nouns`` (what is recorded), ``live`` (what is going on), ``barrier`` (who serves it) and ``telemetry``; decides
nothing itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from flyproxy._speedups.shm.beat import Root
from flyproxy._speedups.shm.closeness import Closeness
from flyproxy._speedups.shm.counters import CounterReader
from flyproxy._speedups.shm.table import TableReader
from flyproxy.boot import Boot
from flyproxy.control import barrier, live, master_line
from flyproxy.control.envelope import Refused
from flyproxy.control.health.judge import Health
from flyproxy.control.health.monitor import Monitor, Records
from flyproxy.control.mesh.service import Report
from flyproxy.control.nouns import Nouns
from flyproxy.control.telemetry.access_log import AccessLog
from flyproxy.control.telemetry.metrics import Facts, Page
from flyproxy.settings import Settings
from flyproxy.state import commands, report, views
from flyproxy.state.sqlite import SqliteStore

PORTS_SETTLE = 0.5      # seconds that an applied app's new ports may take to be opened
REPORT_WITHIN = 0.5     # seconds that the report of a refused record may take to be written
LOOK = 0.02


class Service:
    """Serves ``admin``; ``admin_address`` tells what is bound, ``mesh_report`` what probing measures."""

    def __init__(self, boot: Boot, access_log: AccessLog) -> None:
        fds = boot.segment_fds
        self.settings: Settings = boot.settings
        self.runtime = boot.runtime
        self.state_dir = boot.state_dir
        self.admin_address: Callable[[], str | None] = lambda: None
        self.mesh_report: Callable[[], Report] = Report
        self.root = Root(fds, writable=False)
        self.table = TableReader(fds)
        self.closeness = Closeness(fds, writable=False)
        self.store = SqliteStore(boot.settings.database)
        self.nouns = Nouns(self.store, lambda: self.settings)
        self.monitor = Monitor(boot.settings.host, lambda: self.table.revision, self._records, self._set_health)
        self.page = Page(CounterReader(fds), self.root, self.table)
        self.access_log = access_log

    async def close(self) -> None:
        await self.store.close()

    async def follow(self, settings: Settings) -> None:
        """New settings; another store is opened before the old one is closed."""
        old, store = self.settings, self.store
        self.settings, self.monitor.host = settings, settings.host
        if settings.database != old.database:
            self.store = SqliteStore(settings.database)
            self.nouns = Nouns(self.store, lambda: self.settings)
            await store.close()

    # -- what is going on

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests can be served: a table is there and a worker has read it."""
        workers = sum(self.root.proc(proc).state == "ready" for proc in self.root.live())
        generation = self.table.generation
        return generation > 0 and workers > 0, {"table_generation": generation, "workers_ready": workers}

    async def status(self) -> Any:
        known = report.read(self.state_dir)
        return {**await master_line.ask(self.runtime, "status"), "admin": {"address": self.admin_address()},
                "quarantine": report.plain(known)}

    async def workers(self) -> Any:
        return await master_line.ask(self.runtime, "workers")

    async def config(self) -> Any:
        return msgspec.to_builtins(self.settings)

    async def metrics(self) -> bytes:
        """The page; written in a thread, so that a large one holds nothing up here."""
        told = await self._master_status()
        expires = (told.get("backhaul") or {}).get("certificate_expires")
        facts = Facts(told.get("restarts", {}), self.access_log.counts(), dict(self.monitor.probes),
                      self.monitor.healths(), report.read(self.state_dir).quarantined_now, self.mesh_report(),
                      datetime.fromisoformat(expires) if expires else None)
        return await asyncio.to_thread(self.page.render, self.settings.region, self.settings.host, facts)

    # -- records

    async def list(self, noun: str, app: str | None) -> Any:
        rows = await self.nouns.list(noun, app)
        if noun == "apps":
            states = await self._port_states()
            return [live.with_port_states(row, states) for row in rows]
        return self._with_live(noun, rows)

    async def show(self, noun: str, name: str) -> Any:
        row = await self.nouns.show(noun, name)
        if noun == "apps":
            return live.with_port_states(row, await self._port_states())
        return self._with_live(noun, [row])[0]

    async def put(self, noun: str, name: str, body: Mapping[str, Any]) -> Any:
        refused = self.table.usage()["refused"]
        data = await self.nouns.put(noun, name, body)
        await self._served(data["revision"])
        await self._not_refused(data["revision"], refused)
        return {**(await self._settled(data) if noun == "apps" else data), "served": True}

    async def delete(self, noun: str, name: str) -> Any:
        data = await self.nouns.delete(noun, name)
        await self._served(data["revision"])
        return {**data, "served": True}

    # -- below

    async def _served(self, revision: int) -> None:
        try:
            await barrier.served(self.root, lambda: self.table.revision, revision)
        except barrier.Behind as behind:
            message = f"revision {revision} is stored, but after {barrier.DEADLINE:g} s it is not served by: {behind}"
            fix = "see 'flyproxyctl status'; once they follow, the change is served without another command"
            raise Refused(504, behind.code, message, "the workers' tables", fix) from None

    async def _not_refused(self, revision: int, refused_before: int) -> None:
        """The table may have had no room for a record that is stored. It counts that before it commits; the reason is
        written to the report a moment after."""
        deadline = time.monotonic() + REPORT_WITHIN
        while True:
            for entry in report.read(self.state_dir).quarantined:
                if entry.revision == revision:
                    raise Refused(507, "not-served", f"revision {revision} is stored, but not served: {entry.reason}",
                                  entry.key, "mend what the message says; what was served before goes on being served")
            if self.table.usage()["refused"] == refused_before or time.monotonic() >= deadline:
                return
            await asyncio.sleep(LOOK)

    async def _settled(self, app: Mapping[str, Any]) -> dict[str, Any]:
        """The app once the master has opened its ports or said why not; as it is after PORTS_SETTLE at the latest."""
        deadline = time.monotonic() + PORTS_SETTLE
        while True:
            states = await self._port_states()
            shown = live.with_port_states(app, states)
            if live.settled(shown) or time.monotonic() >= deadline or not states:
                return shown
            await asyncio.sleep(LOOK)

    async def _port_states(self) -> dict[int, str]:
        return live.port_states((await self._master_status()).get("listeners", ()))

    async def _master_status(self) -> dict[str, Any]:
        """The master's status; empty while it does not answer, so that records can be read without it."""
        try:
            status: dict[str, Any] = await master_line.ask(self.runtime, "status")
        except Refused:
            return {}
        return status

    def _with_live(self, noun: str, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        if noun == "machines":
            in_flight = {row["id"]: row["in_flight"] for row in self.table.machines()}
            return [live.with_in_flight(machine, in_flight) for machine in rows]
        if noun == "hosts":
            known = live.closenesses(self.table.hosts(), self.closeness.get)
            return [live.with_closeness(host, known) for host in rows]
        return rows

    async def _records(self) -> Records:
        world = await views.load_world(self.store)
        return Records(world.apps, world.machines.values())

    async def _set_health(self, machine: str, health: Health, why: str) -> None:
        await commands.set_health(self.store, machine, health, why)
