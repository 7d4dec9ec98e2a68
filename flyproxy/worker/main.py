"""One worker: the engine serves in a thread of its own; this loop hands it what the master says, and says how it is.

The loop is never in the way of traffic: the engine holds no GIL and reads settings, owner words and the table by
itself. States: starting -> ready -> draining -> gone. When the master dies the worker goes on serving (an orphan);
the next master, or anybody, ends it with SIGTERM, which means "drain".
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import setproctitle
import uvloop

from flyproxy import log
from flyproxy.boot import (
    DUMP_SIGNAL,
    EXIT_BOOT,
    EXIT_ENGINE,
    EXIT_OK,
    Boot,
    receive_boot,
    settings_from,
    settings_json,
)
from flyproxy.channel import Channel, ChannelClosed
from flyproxy.cluster_key import hmac_key
from flyproxy.units import ip16

BEAT = 0.2  # seconds between two beats of the Python side; the master judges from 0.5 s on
STARTING_BEAT = 0.02  # until ready: a new generation should not wait for the beat
TITLE_EVERY = 1.0
TURNS_TO_DRAIN = 2  # the turn that runs when drain is called may still accept; the one after it does not
MAILBOX_WAIT = 0.005  # seconds
JOIN_TIMEOUT = 2.0  # seconds that the engine may take to leave its loop


class Worker:
    """Joins channel, engine and heartbeat. ``engine_type`` and ``root_type`` are the compiled doors."""

    def __init__(self, boot: Boot, channel: Channel, engine_type: Callable[..., Any], root_type: Callable[..., Any]):
        assert boot.proc is not None
        self.boot = boot
        self.proc = boot.proc
        self.settings = boot.settings
        self.state = "starting"
        self._channel: Channel | None = channel
        self._root = root_type(boot.segment_fds, writable=True)
        self._engine = engine_type(
            self.proc, boot.segment_fds, boot.wake_fds, settings_json(boot.settings), self.settings.host
        )
        if boot.certificate:
            self._engine.set_certificates(*boot.certificate)
        if boot.cluster_key and self.settings.backhaul.address:
            address = ip16(self.settings.backhaul.bind[0])
            self._engine.set_backhaul(boot.epoch, hmac_key(boot.cluster_key), address)
        self._thread = threading.Thread(target=self._run_engine, name="engine", daemon=True)
        self._failure = ""
        self._leave: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._deadline = float("inf")
        self._drain_turn = 0
        self._draining: asyncio.Future[None] | None = None

    async def run(self) -> int:
        """Serves until drained, stopped or broken; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, lambda: self._finish(EXIT_OK))
        self._thread.start()
        tasks = [asyncio.ensure_future(self._beat()), asyncio.ensure_future(self._listen())]
        try:
            return await self._leave
        finally:
            for task in tasks:
                task.cancel()
            self._stop_engine()

    async def drain(self, seconds: float) -> None:
        """Accepts no more; leaves when the last connection has ended, or after ``seconds``."""
        if self.state == "draining":
            return
        self.state = "draining"
        self._deadline = time.monotonic() + seconds
        await self._post(self._engine.drain)
        self._drain_turn = self._root.proc(self.proc).engine_turns + TURNS_TO_DRAIN
        log.info("draining", "accepts no more", connections=self._engine.connections, seconds=seconds)

    def _on_term(self) -> None:
        self._draining = asyncio.ensure_future(self.drain(self.settings.workers.drain_timeout))

    async def _post(self, call: Callable[..., None], *args: Any) -> None:
        """The engine's mailbox is bounded; a full one is emptied at the engine's next turn."""
        while True:
            try:
                call(*args)
            except BlockingIOError:
                await asyncio.sleep(MAILBOX_WAIT)
            else:
                return

    def _run_engine(self) -> None:
        try:
            self._engine.run()
        except Exception as error:  # noqa: BLE001  reported by the beat, whatever it was
            self._failure = repr(error)

    def _stop_engine(self) -> None:
        """The engine must be out of its loop before the interpreter ends: its memory belongs to the interpreter."""
        with contextlib.suppress(BlockingIOError):  # full: it does not run, and the join below finds that out
            self._engine.stop()
        self._thread.join(JOIN_TIMEOUT)
        if self._thread.is_alive():
            log.error("engine-stuck", f"the engine did not stop within {JOIN_TIMEOUT:g} s")
            os._exit(EXIT_ENGINE)

    def _finish(self, status: int) -> None:
        if not self._leave.done():
            self._leave.set_result(status)

    # -- what we say

    async def _beat(self) -> None:
        titled = 0.0
        while True:
            self._root.beat_python(self.proc)
            if not self._thread.is_alive():
                why = self._failure or self._engine.error or "it returned without being told to"
                log.error("engine-died", f"the engine thread ended: {why}")
                self._finish(EXIT_ENGINE)
                return
            self._advance()
            if time.monotonic() - titled >= TITLE_EVERY:
                titled = time.monotonic()
                setproctitle.setproctitle(self._title())
            await asyncio.sleep(STARTING_BEAT if self.state == "starting" else BEAT)

    def _advance(self) -> None:
        """starting -> ready once the engine turns and has read a table; draining -> gone once nothing is open."""
        if self.state == "starting":
            view = self._root.proc(self.proc)
            if view.engine_turns > 0 and view.generation >= 1:
                self.state = "ready"
                self._say({"t": "ready"})
        elif self.state == "draining":
            left = self._engine.connections
            seen = self._root.proc(self.proc).engine_turns >= self._drain_turn
            if (left == 0 and seen) or time.monotonic() >= self._deadline:
                log.info("drained", "leaves", connections_cut=left)
                self._say({"t": "drained"})
                self._finish(EXIT_OK)

    def _title(self) -> str:
        orphan = "" if self._channel else ", orphan"
        return f"flyproxy: {self.boot.process} ({self.state}, {self._engine.connections} connections{orphan})"

    def _say(self, message: dict[str, Any]) -> None:
        if self._channel is not None:
            with contextlib.suppress(ChannelClosed):  # _listen notices it too, and that is the place to act
                self._channel.send(message)

    # -- what we are told

    async def _listen(self) -> None:
        channel = self._channel
        assert channel is not None
        try:
            while True:
                message, fds = await channel.recv()
                await self._obey(message, fds)
        except ChannelClosed:
            channel.close()
            self._channel = None
            log.warning("master-gone", "the master is gone: traffic goes on until the next one takes over")

    async def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message.get("t")
        if kind == "listeners":
            await self._change_listeners(message, fds)
        elif kind == "settings":
            self.settings = settings_from(message["settings"])
            log.configure(self.settings.log, process=self.boot.process)
            await self._post(self._engine.apply_settings, message["settings"])
        elif kind == "drain":
            await self.drain(float(message["deadline"]))
        elif kind == "stop":
            self._finish(EXIT_OK)
        else:
            log.warning("unknown-message", f"the master sent a message of unknown kind {kind!r}")

    async def _change_listeners(self, message: dict[str, Any], fds: list[int]) -> None:
        """Removed first: the same sockets may come back under new ids. The engine owns the descriptors from here."""
        for number in message["remove"]:
            await self._post(self._engine.remove_listener, number)
        for item, fd in zip(message["add"], fds, strict=True):
            if self.state == "draining":
                os.close(fd)
                continue
            await self._post(
                self._engine.add_listener, item["id"], item["slot"], fd, item["service_port"], item["proxy_protocol"],
                item["trusted_sources"], item["source"] == "backhaul",
            )  # fmt: skip


async def run() -> int:
    """From the inherited channel to the exit status."""
    try:
        channel = Channel.inherited()
        boot = await receive_boot(channel)
    except (ChannelClosed, OSError) as error:
        log.error("boot-failed", f"cannot begin: {error}")
        return EXIT_BOOT
    setproctitle.setproctitle(f"flyproxy: {boot.process} (starting)")
    try:
        from flyproxy._speedups.engine import Engine
        from flyproxy._speedups.shm.beat import Root

        worker = Worker(boot, channel, Engine, Root)
    except (ImportError, OSError, ValueError) as error:
        log.error("boot-failed", f"cannot begin: {error}")
        with contextlib.suppress(ChannelClosed):
            channel.send({"t": "refused", "why": str(error)})
        return EXIT_BOOT
    return await worker.run()


def main() -> int:
    """The process."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True, chain=False)
    return uvloop.run(run())
