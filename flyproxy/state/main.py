"""The state process: state store → VM table, and nothing else.

It is the table's one writer. Traffic does not need it: when it dies, the workers go on with the last table, and the
next one builds the other segment and flips. It lives no longer than the master.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal

import setproctitle
import uvloop

from flyproxy import log
from flyproxy.boot import DUMP_SIGNAL, EXIT_BOOT, EXIT_MASTER, EXIT_OK, Boot, receive_boot, settings_from
from flyproxy.channel import Channel, ChannelClosed, Message
from flyproxy.cluster_key import hash_key
from flyproxy.settings import Settings
from flyproxy.state.own_host import describe
from flyproxy.state.region_order import round_trips
from flyproxy.state.session import Session
from flyproxy.state.sqlite import SqliteStore


class State:
    """Runs one session after another: a new one when settings change that a session is built on."""

    def __init__(self, boot: Boot, channel: Channel) -> None:
        self.boot = boot
        self.channel = channel
        self.settings = boot.settings
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """Until told to stop or left alone; the exit status."""
        obey = asyncio.create_task(self._obey())
        serve = asyncio.create_task(self._serve())
        try:
            await asyncio.wait((obey, serve), return_when=asyncio.FIRST_COMPLETED)
            if serve.done():
                serve.result()
            return obey.result()
        finally:
            for task in (obey, serve):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _obey(self) -> int:
        while True:
            try:
                message, _ = await self.channel.recv()
            except ChannelClosed:
                log.warning("master-gone", "the master is gone: state ends; traffic goes on with the last table")
                return EXIT_MASTER
            if message["t"] == "stop":
                return EXIT_OK
            if message["t"] == "ping":
                self._send({"t": "pong"})
            if message["t"] == "settings":
                self._take(settings_from(message["settings"]))

    def _take(self, settings: Settings) -> None:
        log.configure(settings.log, process=self.boot.process)
        before, self.settings = self.settings, settings
        if _built_on(before) != _built_on(settings):
            self._changed.set()

    async def _serve(self) -> None:
        while True:
            self._changed.clear()
            settings = self.settings
            store = SqliteStore(settings.database)
            session = asyncio.create_task(self._session(store, settings).run())
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait((session, changed), return_when=asyncio.FIRST_COMPLETED)
                if session.done():
                    session.result()
            finally:
                for task in (session, changed):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                await store.close()
            log.info("settings", "reading the store anew, as the settings say now")

    def _session(self, store: SqliteStore, settings: Settings) -> Session:
        from flyproxy._speedups.shm.closeness import Closeness
        from flyproxy._speedups.shm.table import TableFull, TableReader, TableWriter
        fds = self.boot.segment_fds
        writer = TableWriter(
            fds, self.boot.wake_fds, settings.region, settings.host, hash_key(self.boot.cluster_key),
            mesh=bool(settings.backhaul.address),
        )
        refusals = (TableFull, ValueError, TypeError, OverflowError)
        reader, closeness = TableReader(fds), Closeness(fds, writable=False)
        return Session(
            store, writer, refusals, self.boot.state_dir, settings.region, self._send,
            describe(settings, self.boot), lambda: round_trips(reader.hosts(), closeness.get),
        )

    def _send(self, message: Message) -> None:
        # A master that is gone is noticed by _obey.
        with contextlib.suppress(ChannelClosed):
            self.channel.send(message)


def _built_on(settings: Settings) -> tuple[object, ...]:
    return settings.region, settings.host, settings.database, settings.state


async def run() -> int:
    """From the inherited channel to the exit status."""
    try:
        channel = Channel.inherited()
        boot = await receive_boot(channel)
    except (ChannelClosed, OSError) as error:
        log.error("boot-failed", f"cannot begin: {error}")
        return EXIT_BOOT
    setproctitle.setproctitle("flyproxy: state")
    running = asyncio.ensure_future(State(boot, channel).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return EXIT_OK
    except (ImportError, OSError) as error:
        log.error("boot-failed", f"cannot go on: {error}")
        with contextlib.suppress(ChannelClosed):
            channel.send({"t": "refused", "why": str(error)})
        return EXIT_BOOT


def main() -> int:
    """The process."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True, chain=False)
    return uvloop.run(run())
