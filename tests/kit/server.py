"""A server of many connections for the price of one process: a child that serves one asyncio protocol.

The module that has the protocol is the child's program, too, and calls ``serve`` when it runs as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import uvloop

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """The server, from construction on; ``stop`` or a with block ends it. Its program is the subclass's module."""

    host: ClassVar[str] = "127.0.0.1"

    def __init__(self) -> None:
        self.listener = socket.create_server((self.host, 0), backlog=4096)
        self.port: int = self.listener.getsockname()[1]
        self.address = f"{self.host}:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", type(self).__module__, str(self.listener.fileno())],
            cwd=ROOT, pass_fds=[self.listener.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()


def serve(protocol: type[asyncio.Protocol]) -> None:
    """Serves on the socket whose number is the program's only argument, until the process is ended."""

    async def for_ever() -> None:
        listener = socket.socket(fileno=int(sys.argv[1]))
        server = await asyncio.get_running_loop().create_server(protocol, sock=listener, backlog=4096)
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(for_ever())
