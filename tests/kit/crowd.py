"""Thousands of WebSockets (RFC 6455) for the price of two processes: a server that echoes, and clients in one epoll.

Only what such a test needs: masked text frames of up to 125 bytes, echoed unmasked, and what remains of a connection at
its end. A client is 1 socket and a few hundred bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

from tests.kit.server import Server, serve

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = base64.b64encode(b"0123456789abcdef")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + GUID).digest())
TEXT, CLOSE, MASKED = 0x81, 0x88, 0x80
MASK = b"\x5a\xa5\x3c\xc3"
HEAD_END = b"\r\n\r\n"
SHORT = 126  # payloads are shorter (5.2)
AT_ONCE = 200  # connections that are being opened, or messages under way
PER_ADDRESS = 2000  # sockets of one source address


def masked(payload: bytes) -> bytes:
    return bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


# -- the server


class EchoServer(Server):
    """Echoes what a WebSocket says; who asks for none gets "ok"."""


class _Served(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer, self.open = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            head, end, self.buffer = self.buffer.partition(HEAD_END)
            if not end:
                self.buffer = head
                return
            self._accept(head)
        while len(self.buffer) >= 6 and len(self.buffer) >= (size := 6 + (self.buffer[1] & 0x7F)):
            frame, self.buffer = self.buffer[:size], self.buffer[size:]
            payload = bytes(byte ^ frame[2 + at % 4] for at, byte in enumerate(frame[6:]))
            self.transport.write(frame[:1] + bytes([len(payload)]) + payload)
            if frame[0] == CLOSE:
                self.transport.close()

    def _accept(self, head: bytes) -> None:
        key = re.search(rb"(?i)\r\nsec-websocket-key: *([^\r]*)", head + b"\r\n")
        if key is None:  # not asked for a WebSocket: for requests beside them
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + HEAD_END
        )
        self.open = True


# -- the clients


@dataclass
class Member:
    """One WebSocket. ``ended``: what was seen of its end, None while it is open."""

    number: int
    sock: socket.socket
    buffer: bytes = b""
    open: bool = False
    heard: list[bytes] = field(default_factory=list)
    ended: str | None = None


class Crowd:
    """``count`` WebSockets to ``address``, opened by ``gather``. A context manager: leaving it closes all."""

    def __init__(self, address: tuple[str, int], host: str, count: int, patience: float = 30.0) -> None:
        self.address, self.patience = address, patience
        self.members: list[Member] = []
        self.count = count
        self.request = (
            f"GET /chat HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self.poll = select.epoll()
        self.by_fd: dict[int, Member] = {}

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for member in self.members:
            member.sock.close()
        self.poll.close()

    # -- what they do

    def gather(self) -> None:
        """All of them are open, AT_ONCE at a time."""
        while len(self.members) < self.count:
            fresh = [self._connect(len(self.members)) for _ in range(min(AT_ONCE, self.count - len(self.members)))]
            self._until(lambda some=fresh: all(one.open or one.ended for one in some), "they are open")  # type: ignore[misc]
        assert not self.lost(), self.lost()[:5]

    def say(self, words: str) -> None:
        """Each says ``words`` with its number and hears just that."""
        for at in range(0, self.count, AT_ONCE):
            some = self.members[at : at + AT_ONCE]
            for one in some:
                payload = f"{words} {one.number}".encode()
                assert len(payload) < SHORT
                one.heard.clear()
                with contextlib.suppress(OSError):  # its end is seen by reading
                    one.sock.send(bytes([TEXT, MASKED | len(payload)]) + MASK + masked(payload))
            self._until(lambda some=some: all(one.heard or one.ended for one in some), f"all have heard {words!r}")  # type: ignore[misc]
            wrong = [one for one in some if one.heard != [f"{words} {one.number}".encode()]]
            assert not wrong, f"of {len(some)} WebSockets {len(wrong)} did not hear {words!r}: {wrong[0]}"

    def lost(self) -> list[str]:
        """What was seen of the ends of those that have ended, by now."""
        self._turn(0)
        return [f"{one.number}: {one.ended}" for one in self.members if one.ended]

    def leave(self) -> None:
        """All close as RFC 6455 7.1.2 says, and are answered."""
        for one in self.members:
            one.sock.send(bytes([CLOSE, MASKED | 2]) + MASK + masked(b"\x03\xe8"))
        self._until(lambda: all(one.ended for one in self.members), "all are closed")
        assert {one.ended for one in self.members} == {"close 1000"}, self.lost()[:5]

    # -- below

    def _connect(self, number: int) -> Member:
        sock = socket.socket()
        sock.bind((f"127.9.{number // PER_ADDRESS // 250}.{1 + number // PER_ADDRESS % 250}", 0))
        sock.connect(self.address)
        sock.setblocking(False)
        sock.send(self.request)
        member = Member(number, sock)
        self.members.append(member)
        self.by_fd[sock.fileno()] = member
        self.poll.register(sock, select.EPOLLIN)
        return member

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.patience
        while not condition():
            self._turn(0.1)
            assert time.monotonic() < deadline, f"not within {self.patience} s: {what}"

    def _turn(self, timeout: float) -> None:
        while events := self.poll.poll(timeout, 1024):
            for fd, _ in events:
                self._read(self.by_fd[fd])
            timeout = 0

    def _read(self, one: Member) -> None:
        try:
            data = one.sock.recv(65536)
        except OSError as error:
            return self._end(one, type(error).__name__)
        if not data:
            return self._end(one, f"end after {one.buffer!r}")
        one.buffer += data
        if not one.open:
            head, end, rest = one.buffer.partition(HEAD_END)
            if not end:
                return None
            if not head.startswith(b"HTTP/1.1 101") or ACCEPT not in head:
                return self._end(one, head.decode("latin-1"))
            one.open, one.buffer = True, rest
        for opcode, payload in self._frames(one):
            if opcode == CLOSE:
                return self._end(one, f"close {int.from_bytes(payload[:2], 'big')}")
            one.heard.append(payload)
        return None

    def _frames(self, one: Member) -> Iterable[tuple[int, bytes]]:
        while len(one.buffer) >= 2 and len(one.buffer) >= (size := 2 + one.buffer[1]):
            frame, one.buffer = one.buffer[:size], one.buffer[size:]
            yield frame[0], frame[2:]

    def _end(self, one: Member, how: str) -> None:
        one.ended = how
        self.poll.unregister(one.sock)


if __name__ == "__main__":
    serve(_Served)
