"""Thousands of machines for the price of one process: a server on one port of every address in 127.0.0.0/8.

The whole network is local (RFC 5735 3), so each of its addresses is a machine of its own. An answer names the address
that was asked and echoes Host and target: who got it can tell whose machine answered, and that it is the answer to this
very request.
"""

from __future__ import annotations

import asyncio
from typing import cast

from tests.kit.server import Server, serve

HEAD_END = b"\r\n\r\n"


class Farm(Server):
    """The machines; ``port`` is that of all."""

    host = "0.0.0.0"


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


if __name__ == "__main__":
    serve(_Machine)
