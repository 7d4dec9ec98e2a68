"""Datagrams between the processes that have one SQLite store open: "something changed", and small messages.

Every reader binds a socket of its own in a folder beside the database; a writer sends to all of them and never waits. A
lost datagram costs only time: readers also look at the database by themselves. An empty datagram is a poke, any other
is ``topic NUL data``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator

from flyproxy.state.files import make_folder

MAX_MESSAGE = 64 << 10


class Pokes:
    """The folder of sockets beside ``database``; made on first use, for the owner of the database alone."""

    def __init__(self, database: str) -> None:
        self.folder = database + ".wake"
        self._sender: socket.socket | None = None
        self._receiver: socket.socket | None = None
        self._name = ""

    def listen(self, on_message: Callable[[bytes], None]) -> None:
        """Calls ``on_message`` with every datagram, from the running loop. Raises OSError."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        make_folder(self.folder)
        with self._opened() as folder:
            # A socket's path has 108 bytes at most (unix(7)); through /proc it is short wherever the database is.
            receiver.bind(f"/proc/self/fd/{folder}/{self._name}")
        self._receiver = receiver
        asyncio.get_running_loop().add_reader(receiver, self._receive, receiver, on_message)

    @staticmethod
    def _receive(receiver: socket.socket, on_message: Callable[[bytes], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                on_message(receiver.recv(MAX_MESSAGE + 256))

    def send(self, data: bytes = b"") -> None:
        """To every listener that has room; whoever is gone is cleared away."""
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            names = os.listdir(self.folder)
        except OSError:
            return
        with self._opened() as folder:
            for name in names:
                try:
                    self._sender.sendto(data, f"/proc/self/fd/{folder}/{name}")
                except ConnectionRefusedError:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)
                except OSError:
                    continue

    def close(self) -> None:
        if self._receiver is not None:
            asyncio.get_running_loop().remove_reader(self._receiver)
            self._receiver.close()
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, self._name))
        if self._sender is not None:
            self._sender.close()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)
