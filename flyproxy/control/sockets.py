"""Where the admin applications listen. A taken address is told and tried again, never a reason to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from aiohttp import web

from flyproxy import log
from flyproxy.units import join_address, split_address

RETRY = 1.0
SOCKET_MODE = 0o600


async def listen_unix(app: web.Application, path: str) -> web.AppRunner:
    """Serve on a unix socket of mode 0600, in place of what a dead process left there.

    The socket gets its mode before it listens: nobody else can connect in between.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    os.chmod(path, SOCKET_MODE)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.SockSite(runner, made).start()
    return runner


class AdminAddress:
    """The TCP address of the read-only application; ``follow`` moves it when the setting changes."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        self._site: web.SockSite | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted = ""
        self.bound: str | None = None

    async def follow(self, address: str) -> None:
        """Listen on ``address`` and no longer on the one before; empty: nowhere."""
        if address == self._wanted:
            return
        await self._leave()
        self._wanted = address
        if address and not await self._try(address, tell=True):
            self._task = asyncio.create_task(self._keep_trying(address))

    async def close(self) -> None:
        await self._leave()
        await self._runner.cleanup()

    async def _leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self.bound = None

    async def _keep_trying(self, address: str) -> None:
        while not await self._try(address, tell=False):
            await asyncio.sleep(RETRY)

    async def _try(self, address: str, tell: bool) -> bool:
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            made = socket.create_server((host, port), family=family)
        except OSError as error:
            if tell:
                log.error("admin-address", f"cannot listen on {address}, trying again: {error.strerror or error}",
                          address=address, fix="free the address or change [admin] address")
            return False
        if self._runner.server is None:
            await self._runner.setup()
        self._site = web.SockSite(self._runner, made)
        await self._site.start()
        ip, real_port = made.getsockname()[:2]
        self.bound = join_address(ip, real_port)
        log.info("admin-listening", f"admin HTTP on http://{self.bound}", address=self.bound)
        return True
