"""This host's record in the store: written when a session begins, and again whenever the store has another.

Two hosts of one name do not fight: who began later (the newer epoch) has the record, and the other one says loudly that
nobody reaches it.
"""

from __future__ import annotations

import asyncio

from flyproxy import log
from flyproxy.apps.model import VERSION
from flyproxy.boot import Boot
from flyproxy.settings import Settings
from flyproxy.state import records
from flyproxy.state.records import GLOBAL, Host, Invalid
from flyproxy.state.store import Conflict, StateStore, StoreError

RETRY = 1.0  # seconds until a store that failed is tried again


def describe(settings: Settings, boot: Boot) -> Host | None:
    """The record; None for a host without a backhaul."""
    if not settings.backhaul.address:
        return None
    return Host(VERSION, settings.host, settings.region, settings.backhaul.bind[0], boot.backhaul_ports, boot.epoch,
                tuple(settings.roles), bool(settings.backhaul.cert))


class OwnHost:
    """Keeps the record; ``look_again`` says that the store may have another one by now."""

    def __init__(self, store: StateStore, host: Host) -> None:
        self.store = store
        self.host = host
        self.key = records.node_key(host.id)
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._write()
            except StoreError as error:
                log.warning("host-not-written", f"other hosts do not know of this start yet: {error}", code=error.code)
                await asyncio.sleep(RETRY)
                continue
            await self._changed.wait()

    async def _write(self) -> None:
        while True:
            found = await self.store.get(GLOBAL, self.key)
            if found is not None and not self._may_replace(found[0]):
                return
            try:
                await self.store.put(GLOBAL, self.key, records.encode(self.host), prev=found[1] if found else 0)
            except Conflict:
                continue
            return

    def _may_replace(self, value: bytes) -> bool:
        try:
            other = records.decode(GLOBAL, self.key, value)
        except Invalid:
            return True
        if not isinstance(other, Host) or other == self.host:
            return False
        if other.epoch < self.host.epoch or (other.epoch, other.address) == (self.host.epoch, self.host.address):
            return True
        log.error("host-id-taken", f"host {other.id} is at {other.address} since {other.epoch}, says the store; this "
                  f"one, at {self.host.address} since {self.host.epoch}, is reached by nobody",
                  id=other.id, address=other.address, fix="give each host a name of its own ('host' in flyproxy.toml) "
                  "and restart this one; if no other has it, set the clock and restart")
        return False
