"""The control process: starts and stops health checks, the admin API, metrics, the access log and mesh probes.

Traffic needs nothing of it. It lives as long as the master: when the channel closes it ends, so that the next master's
control finds its addresses free.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
from typing import TYPE_CHECKING

import setproctitle
import uvloop

from flyproxy import log
from flyproxy.boot import DUMP_SIGNAL, EXIT_BOOT, EXIT_MASTER, EXIT_OK, Boot, receive_boot, settings_from
from flyproxy.channel import Channel, ChannelClosed
from flyproxy.settings import Settings

if TYPE_CHECKING:
    from flyproxy._speedups.shm.closeness import Closeness

API_SOCKET = "api.sock"


class Control:
    """The parts, in the order they are started; they are stopped in the reverse one."""

    def __init__(self, boot: Boot) -> None:
        from flyproxy._speedups.shm.logring import LogReader
        from flyproxy.control import admin
        from flyproxy.control.mesh.service import Mesh
        from flyproxy.control.service import Service
        from flyproxy.control.sockets import AdminAddress
        from flyproxy.control.telemetry.access_log import AccessLog
        self.boot = boot
        self.settings = boot.settings
        self.access_log = AccessLog(LogReader(boot.segment_fds), boot.settings.log.access)
        self.service = Service(boot, self.access_log)
        self.address = AdminAddress(admin.reading(self.service))
        self.service.admin_address = lambda: self.address.bound
        self.api = admin.writing(self.service)
        self.mesh = Mesh(boot, self.service.table, self._closeness)
        self.service.mesh_report = self.mesh.report

    async def run(self, channel: Channel) -> int:
        """Serve until told to stop or left alone; the exit status."""
        from flyproxy.control.sockets import listen_unix
        async with contextlib.AsyncExitStack() as stack:
            self.access_log.start()
            stack.push_async_callback(asyncio.to_thread, self.access_log.stop)
            stack.push_async_callback(self.service.close)
            runner = await listen_unix(self.api, os.path.join(self.boot.runtime, API_SOCKET))
            stack.push_async_callback(runner.cleanup)
            await self._follow_address()
            stack.push_async_callback(self.address.close)
            stack.callback(self._watch_health().cancel)
            self.mesh.follow(self.settings)
            stack.callback(self.mesh.close)
            channel.send({"t": "ready"})
            return await self._obey(channel)

    async def _obey(self, channel: Channel) -> int:
        while True:
            try:
                message, _ = await channel.recv()
            except ChannelClosed:
                log.warning("master-gone", "the master is gone: control ends; traffic goes on")
                return EXIT_MASTER
            if message["t"] == "stop":
                return EXIT_OK
            if message["t"] == "ping":
                with contextlib.suppress(ChannelClosed):  # noticed by recv
                    channel.send({"t": "pong"})
            if message["t"] == "settings":
                await self._apply(settings_from(message["settings"]))

    async def _apply(self, settings: Settings) -> None:
        self.settings = settings
        await self.service.follow(settings)
        log.configure(settings.log, process=self.boot.process)
        await self._follow_address()
        self.mesh.follow(settings)
        self.reopen()

    async def _follow_address(self) -> None:
        await self.address.follow(self.settings.admin.address)

    def _closeness(self) -> Closeness:
        from flyproxy._speedups.shm.closeness import Closeness
        return Closeness(self.boot.segment_fds, writable=True)

    def reopen(self) -> None:
        """Follow log.access and open its file again; in a thread, because a disk that hangs must not hold us up."""
        asyncio.get_running_loop().run_in_executor(None, self.access_log.configure, self.settings.log.access)

    def _watch_health(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.service.monitor.run())
        task.add_done_callback(_told)
        return task


def _told(task: asyncio.Task[None]) -> None:
    """Health checks that end by themselves are a bug: said, and the rest goes on."""
    if not task.cancelled() and task.exception() is not None:
        log.error("health-stopped", f"health checks ended: {task.exception()!r}", fix="restart the control process")


async def run() -> int:
    """From the inherited channel to the exit status."""
    try:
        channel = Channel.inherited()
        boot = await receive_boot(channel)
    except (ChannelClosed, OSError) as error:
        log.error("boot-failed", f"cannot begin: {error}")
        return EXIT_BOOT
    setproctitle.setproctitle("flyproxy: control")
    try:
        control = Control(boot)
    except (ImportError, OSError, ValueError) as error:
        log.error("boot-failed", f"cannot begin: {error}")
        with contextlib.suppress(ChannelClosed):
            channel.send({"t": "refused", "why": str(error)})
        return EXIT_BOOT
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(control.run(channel))
    loop.add_signal_handler(signal.SIGHUP, control.reopen)
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await running
    return EXIT_OK


def main() -> int:
    """The process."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True, chain=False)
    return uvloop.run(run())
