"""The master's control socket, ``ctl.sock``: one JSON object a line each way, mode 0600.

Works while every other process is dead. Who may speak is decided by the kernel's word on the peer (SO_PEERCRED,
unix(7)): root, the master's user, and the user of its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any

from flyproxy import log

LINE_MAX = 64 * 1024
CLIENTS_MAX = 64
PAUSE = 0.5  # seconds: a command is answered in milliseconds, but who asks may be slow

ASKER: ContextVar[asyncio.StreamWriter | None] = ContextVar("asker", default=None)
"""The connection whose command runs; None: nobody asked, it was a signal."""

Answer = dict[str, Any]
Command = Callable[[dict[str, Any]], Awaitable[Any]]


class CommandError(Exception):
    """A command that failed: becomes {"v":1,"error":{code,message,where,fix}}."""

    def __init__(self, code: str, message: str, where: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "where": where, "fix": fix}


class CtlServer:
    """Serves ``commands`` by name on a UNIX socket at ``path``."""

    def __init__(self, path: str, commands: Mapping[str, Command], uids: Collection[int]) -> None:
        self.path = path
        self._commands = commands
        self._uids = frozenset(uids)
        self._sock: socket.socket | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter | None] = {}

    async def open(self, owner: tuple[int, int] | None, kept: int | None = None) -> None:
        """Listens; a socket left by a dead master is replaced. ``owner``: (uid, gid) that shall be able to connect.
        ``kept``: the socket of the last program of this process."""
        self._sock = _bound(self.path) if kept is None else socket.socket(fileno=kept)
        if owner is not None:
            os.chown(self.path, *owner, follow_symlinks=False)  # the folder may belong to that user
        self._sock.setblocking(False)
        self._sock.listen(CLIENTS_MAX)
        self.go_on()

    def fileno(self) -> int:
        """The listening socket's descriptor."""
        assert self._sock is not None, "not open"
        return self._sock.fileno()

    def go_on(self) -> None:
        """Accepts (again)."""
        asyncio.get_running_loop().add_reader(self.fileno(), self._accept)

    async def pause(self, waiting: Collection[asyncio.StreamWriter | None]) -> None:
        """Accepts no more, so who connects from now on waits in the kernel's queue, and gives who is connected the time
        to be answered; all but those ``waiting`` for something longer."""
        asyncio.get_running_loop().remove_reader(self.fileno())
        others = [task for task, writer in self._clients.items() if writer is None or writer not in waiting]
        if others:
            await asyncio.wait(others, timeout=PAUSE)

    async def close(self) -> None:
        """Stops listening, hangs up, and removes the socket."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
        for task in list(self._clients):
            task.cancel()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def serve(self, sock: socket.socket, owed: Awaitable[Any] | None = None) -> None:
        """Serves a connection; beginning with an answer that the last program of this process ``owed`` it."""
        task = asyncio.get_running_loop().create_task(self._serve(sock, owed))
        self._clients[task] = None
        task.add_done_callback(self._clients.pop)

    def _accept(self) -> None:
        assert self._sock is not None
        with contextlib.suppress(OSError):  # it is gone again, or there are no descriptors left
            self.serve(self._sock.accept()[0])

    async def _serve(self, sock: socket.socket, owed: Awaitable[Any] | None) -> None:
        sock.setblocking(False)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_MAX)
        except OSError:  # who asked is gone; what was asked is done all the same
            await self._answer(owed or asyncio.sleep(0))
            return
        if (task := asyncio.current_task()) is not None:
            self._clients[task] = writer
        ASKER.set(writer)
        try:
            if owed is not None:
                await _send(writer, await self._answer(owed))
            if len(self._clients) > CLIENTS_MAX or not self._allowed(writer):
                error = CommandError("forbidden", "this user may not control the proxy", self.path, "use sudo")
                await _send(writer, {"v": 1, "error": error.error})
                return
            while line := await reader.readline():
                await _send(writer, await self._answer(self._command(line)))
        except (OSError, ValueError):  # the client is gone, or its line is too long
            return
        finally:
            writer.close()

    def _allowed(self, writer: asyncio.StreamWriter) -> bool:
        sock = writer.get_extra_info("socket")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return uid in self._uids

    async def _command(self, line: bytes) -> Any:
        request = _parse(line)
        command = self._commands.get(request["cmd"])
        if command is None:
            names = ", ".join(self._commands)
            raise CommandError("unknown_command", f"unknown command {request['cmd']!r}", "cmd", f"one of {names}")
        return await command(request)

    async def _answer(self, command: Awaitable[Any]) -> Answer:
        try:
            return {"v": 1, "data": await command}
        except CommandError as error:
            return {"v": 1, "error": error.error}
        except Exception as error:  # noqa: BLE001  a bug in one command must cost neither the asker nor the master more
            log.error("command-failed", repr(error), where=traceback.format_exc(limit=-3))
            failed = CommandError("internal", f"the command failed in the master: {error!r}", self.path, "report it")
            return {"v": 1, "error": failed.error}


def _bound(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # never open to others, not even between bind and chmod
    try:
        sock.bind(path)
    finally:
        os.umask(mask)
    return sock


def _parse(line: bytes) -> dict[str, Any]:
    example = 'send one line such as {"v":1,"cmd":"status"}'
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:  # the other one: nested too deeply
        raise CommandError("bad_request", f"not JSON: {error}", "", example) from error
    if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
        raise CommandError("bad_request", "not an object with a command", "cmd", example)
    if request.get("v") != 1:
        raise CommandError("bad_version", f"version {request.get('v')!r} is not spoken here", "v", example)
    return request


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await writer.drain()
