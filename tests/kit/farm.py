"""Thousands of machines for the price of one process: a server on one port of every address in 127.0.0.0/8.

The whole network is local (RFC 5735 3), so each of its addresses is a machine of its own. An answer names the address
that was asked and echoes Host and target: who got it can tell whose machine answered, and that it is the answer to this
very request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import cast

ROOT = Path(__file__).resolve().parents[2]
HEAD_END = b"\r\n\r\n"


class Farm:
    """The server as a child process, from construction on; ``stop`` or a with block ends it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("0.0.0.0", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.farm", str(self.listener.fileno())],
            cwd=ROOT, pass_fds=[self.listener.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.listener.close()

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()


class _Machine(asyncio.Protocol):
    """One connection; requests have no bodies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.buffer = cast(asyncio.Transport, transport), b""
        self.address: str = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while HEAD_END in self.buffer:
            head, _, self.buffer = self.buffer.partition(HEAD_END)
            request, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = f"{self.address} {headers['host']} {request.split()[1]}\n"
            self.transport.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


async def _serve(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(_Machine, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
