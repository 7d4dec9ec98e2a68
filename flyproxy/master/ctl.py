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
from typing import Any

from flyproxy import log

LINE_MAX = 64 * 1024
CLIENTS_MAX = 64

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
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def open(self, owner: tuple[int, int] | None) -> None:
        """Listens; a socket left by a dead master is replaced. ``owner``: (uid, gid) that shall be able to connect."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)  # never open to others, not even between bind and chmod
        try:
            sock.bind(self.path)
        finally:
            os.umask(mask)
        if owner is not None:
            os.chown(self.path, *owner, follow_symlinks=False)  # the folder may belong to that user
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=LINE_MAX)

    async def close(self) -> None:
        """Stops listening, hangs up, and removes the socket."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._clients):
            writer.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            if len(self._clients) > CLIENTS_MAX or not self._allowed(writer):
                error = CommandError("forbidden", "this user may not control the proxy", self.path, "use sudo")
                await _send(writer, {"v": 1, "error": error.error})
                return
            while line := await reader.readline():
                await _send(writer, await self._answer(line))
        except (OSError, ValueError):  # the client is gone, or its line is too long
            return
        finally:
            self._clients.discard(writer)
            writer.close()

    def _allowed(self, writer: asyncio.StreamWriter) -> bool:
        sock = writer.get_extra_info("socket")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return uid in self._uids

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = _parse(line)
            command = self._commands.get(request["cmd"])
            if command is None:
                names = ", ".join(self._commands)
                raise CommandError("unknown_command", f"unknown command {request['cmd']!r}", "cmd", f"one of {names}")
            return {"v": 1, "data": await command(request)}
        except CommandError as error:
            return {"v": 1, "error": error.error}
        except Exception as error:  # noqa: BLE001  a bug in one command must cost neither the asker nor the master more
            log.error("command-failed", repr(error), where=traceback.format_exc(limit=-3))
            failed = CommandError("internal", f"the command failed in the master: {error!r}", self.path, "report it")
            return {"v": 1, "error": failed.error}


def _parse(line: bytes) -> dict[str, Any]:
    example = 'send one line such as {"v":1,"cmd":"status"}'
    try:
        request = json.loads(line)
    except ValueError as error:
        raise CommandError("bad_request", f"not JSON: {error}", "", example) from error
    if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
        raise CommandError("bad_request", "not an object with a command", "cmd", example)
    if request.get("v") != 1:
        raise CommandError("bad_version", f"version {request.get('v')!r} is not spoken here", "v", example)
    return request


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await writer.drain()
