"""Messages with descriptors between the master and one child, over an AF_UNIX SOCK_SEQPACKET pair.

A message is a JSON object with the key ``"t"``, and a list of file descriptors. The kernel keeps packets whole and in
order, but limits a packet's size (the send buffer, about 200 KiB by default) and its descriptors (253, SCM_MAX_FD in
unix(7)); so a message travels as one or more packets, each with one leading byte that says whether more follow.

Sending never blocks: what the kernel does not take at once waits in a bounded queue, because the other end may be
stopped (SIGSTOP, a debugger) and the master must go on.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

ENV_FD = "FLYPROXY_CHANNEL_FD"  # a child finds the number of its end here
_LAST, _MORE = b".", b"+"
_PACKET = 64 * 1024  # bytes of JSON per packet: well inside the smallest send buffer in use
_PACKET_FDS = 200
_QUEUE = 4096  # packets that may wait for a peer that does not read


class ChannelClosed(Exception):
    """The other end is gone, or has not read for so long that nothing more is queued for it."""


class Channel:
    """One end. Owns the socket; descriptors that arrive belong to the caller, descriptors sent stay the caller's."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._queue: deque[tuple[bytes, list[int]]] = deque()  # descriptors in here are our own duplicates
        self._text = bytearray()
        self._fds: list[int] = []
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Our end, and the socket whose descriptor is inherited by a child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def inherited(cls) -> Channel:
        """The child's end, from the environment; raises ChannelClosed with the reason when there is none."""
        number = os.environ.pop(ENV_FD, "")
        if not number.isdigit():
            raise ChannelClosed(f"{ENV_FD} is not set: this program is started by 'flyproxy run', not by hand")
        try:
            sock = socket.socket(fileno=int(number))
        except OSError as error:
            raise ChannelClosed(f"{ENV_FD}={number} is not a socket ({error.strerror})") from error
        sock.set_inheritable(False)
        return cls(sock)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends, or queues what the kernel does not take now. Raises ChannelClosed."""
        packets = _packets(message, fds)
        while packets and not self._queue and self._try_send(*packets[0]):
            packets.pop(0)
        if not packets:
            return
        if len(self._queue) + len(packets) > _QUEUE:
            raise ChannelClosed(f"{len(self._queue)} messages wait and the other end does not read")
        if not self._queue:
            asyncio.get_running_loop().add_writer(self._sock, self._flush)
        self._queue.extend((data, [os.dup(fd) for fd in own]) for data, own in packets)

    async def recv(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors (close-on-exec). Raises ChannelClosed at the end."""
        while (found := self._try_recv()) is None:
            await self._readable()
        return found

    def rest(self) -> list[Message]:
        """What a peer that has ended said last and nobody has read yet; descriptors among it are closed."""
        found = []
        with contextlib.suppress(ChannelClosed, ValueError):
            while (entry := self._try_recv()) is not None:
                found.append(entry[0])
                _close_all(entry[1])
        return found

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    @property
    def idle(self) -> bool:
        """No message is half sent or half received: whoever holds a duplicate of the socket could go on with it."""
        return not (self._queue or self._text or self._fds)

    def close(self) -> None:
        """Closes the socket and everything that still waits."""
        if self._sock.fileno() < 0:
            return
        with contextlib.suppress(RuntimeError):  # no running loop: nothing was registered with one
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._sock)
            loop.remove_writer(self._sock)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ChannelClosed("this end is closed"))
        for _, fds in self._queue:
            _close_all(fds)
        self._queue.clear()
        _close_all(self._fds)
        self._fds = []
        self._sock.close()

    def _try_send(self, data: bytes, fds: list[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(error.strerror or str(error)) from error
        return True

    def _flush(self) -> None:
        """Called by the loop when the socket takes more. A dead peer is noticed by recv, so it is not raised here."""
        try:
            while self._queue and self._try_send(*self._queue[0]):
                _close_all(self._queue.popleft()[1])
        except ChannelClosed:
            while self._queue:
                _close_all(self._queue.popleft()[1])
        if not self._queue:
            asyncio.get_running_loop().remove_writer(self._sock)

    def _try_recv(self) -> tuple[Message, list[int]] | None:
        """A whole message, or None when something has to come first."""
        try:
            while self._read_packet():
                pass
        except BlockingIOError:
            return None
        text, fds = bytes(self._text), self._fds
        self._text, self._fds = bytearray(), []
        return json.loads(text), fds

    def _read_packet(self) -> bool:
        """Appends one packet to the message being assembled; True when more packets follow."""
        if self._sock.fileno() < 0:
            raise ChannelClosed("this end is closed")
        try:
            data, rights, _, _ = self._sock.recvmsg(
                _PACKET + 1, socket.CMSG_LEN(_PACKET_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed(error.strerror or str(error)) from error
        if not data:
            raise ChannelClosed("the other end is closed")
        for _, _, raw in rights:
            self._fds.extend(array.array("i", raw[: len(raw) - len(raw) % array.array("i").itemsize]))
        self._text += data[1:]
        return data[:1] == _MORE

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = waiting = loop.create_future()
        loop.add_reader(self._sock, _wake, waiting)
        try:
            await waiting
        finally:
            self._waiting = None
            if self._sock.fileno() >= 0:
                loop.remove_reader(self._sock)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _packets(message: Message, fds: Sequence[int]) -> list[tuple[bytes, list[int]]]:
    text = json.dumps(message, separators=(",", ":")).encode()
    count = max(-(-len(text) // _PACKET), -(-len(fds) // _PACKET_FDS), 1)
    return [
        (
            (_LAST if n == count - 1 else _MORE) + text[n * _PACKET : (n + 1) * _PACKET],
            list(fds[n * _PACKET_FDS : (n + 1) * _PACKET_FDS]),
        )
        for n in range(count)
    ]


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
