"""Sockets and timers of probing: brings datagrams and time to the node. The only file of mesh that touches either.

One UDP socket and one timer for all hosts. What one turn of the event loop may do is bounded, so that probing a
thousand hosts delays nothing else here by more than a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping

from flyproxy.control.mesh.node import Node
from flyproxy.control.mesh.peers import Host
from flyproxy.control.mesh.wire import SIZE_MAX

READS = 64              # datagrams that are read in one turn of the loop
SENDS = 32              # hosts that are looked at in one turn
PACE = 0.01             # seconds between two looks at what is due
LOOK = 1.0              # seconds between two looks at who is there
STALL = 0.5             # seconds that we may be late before we say that we were not there
RECEIVE_BUFFER = 1 << 20

# <linux/in.h>, <linux/in6.h>: an ICMP error comes to the socket's error queue, with the datagram that it is about.
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_EXTENDED_ERROR = struct.Struct("=IB")
_ORIGIN_ICMP = (2, 3)   # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6


def probe_socket(address: str, port: int) -> socket.socket:
    """A UDP socket on this mesh address; port 0 takes a free one. Raises OSError."""
    v6 = ":" in address
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if v6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(*((socket.IPPROTO_IPV6, _IPV6_RECVERR) if v6 else (socket.IPPROTO_IP, _IP_RECVERR)), 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


class Prober:
    """Runs ``node`` on ``sock`` in the running loop until closed. ``generation`` says when ``hosts`` may have changed.
    """

    def __init__(self, node: Node, sock: socket.socket, generation: Callable[[], int],
                 hosts: Callable[[], Mapping[str, Host]]) -> None:
        self.node = node
        self.socket = sock
        self.generation = generation
        self.hosts = hosts
        self._loop = asyncio.get_running_loop()
        self._seen: int | None = None
        self._looked = -LOOK
        # The loop watches an epoll that watches the socket: libuv ends a poll for good at the first POLLERR, which is
        # what a pending ICMP error is; an epoll descriptor is readable then, and never in error itself (epoll(7)).
        self._epoll = select.epoll()
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._loop.add_reader(self._epoll.fileno(), self._read)
        self._expected = time.monotonic()
        self._timer: asyncio.Handle = self._loop.call_soon(self._wake)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self.socket.close()
        self.node.close(time.monotonic())

    def _wake(self) -> None:
        """What is there is read before anything is judged: timers run before sockets in a turn of the loop."""
        self._receive()
        now = time.monotonic()
        if now - self._expected > STALL:
            self.node.forget()
        if now - self._looked >= LOOK:
            self._looked = now
            self._look(now)
        for out in self.node.take_due(now, SENDS):
            self._send(out.data, (out.address, out.port))
        now = time.monotonic()
        self._arm(max(min(self.node.next_due(), self._looked + LOOK), now + PACE), now)

    def _read(self) -> None:
        """Datagrams are there; what they say may call for a ping before the timer's time."""
        self._receive()
        now = time.monotonic()
        due = max(self.node.next_due(), now + PACE)
        if due < self._expected:
            self._timer.cancel()
            self._arm(due, now)

    def _arm(self, due: float, now: float) -> None:
        self._expected = due
        self._timer = self._loop.call_later(due - now, self._wake)

    def _look(self, now: float) -> None:
        generation = self.generation()
        if generation != self._seen:
            self.node.follow(self.hosts(), now)
            self._seen = generation

    def _receive(self) -> None:
        """What is there, up to a bound. Errors are looked for when a call failed or there was nothing else to wake us.
        """
        for count in range(READS):
            try:
                data, source = self.socket.recvfrom(SIZE_MAX + 1)
            except BlockingIOError:
                if count:
                    return
                break
            except OSError:         # the number of an ICMP error; the error itself is in the queue
                break
            answer = self.node.receive(data, source[0], time.monotonic())
            if answer is not None:
                self._send(answer, source)
        self._read_errors()

    def _read_errors(self) -> None:
        for _ in range(READS):
            try:
                datagram, control, _, _ = self.socket.recvmsg(SIZE_MAX, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            if any(_is_refusal(data) for _, _, data in control):
                self.node.refused(datagram, time.monotonic())

    def _send(self, data: bytes, to: tuple[str, int]) -> None:
        """A datagram that cannot be sent is a lost one. The first try may report an older one's ICMP error."""
        for _ in range(2):
            with contextlib.suppress(OSError):
                self.socket.sendto(data, to)
                return


def _is_refusal(extended_error: bytes) -> bool:
    """Whether a struct sock_extended_err <linux/errqueue.h> is a port unreachable of another host's kernel: errno u32,
    origin u8; other errors (no route, too large) say nothing about the link's far end."""
    if len(extended_error) < _EXTENDED_ERROR.size:
        return False
    number, origin = _EXTENDED_ERROR.unpack_from(extended_error)
    return number == errno.ECONNREFUSED and origin in _ORIGIN_ICMP
