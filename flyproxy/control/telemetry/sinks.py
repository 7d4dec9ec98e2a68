"""Where access-log lines go: standard error, a file, or syslog. A sink loses lines rather than stop, and counts them.

``drain`` may block (a slow disk, a full pipe): it is called from the drain's own thread, never from the event loop.
"""

from __future__ import annotations

import os
import socket
from typing import Protocol

SYSLOG_SOCKET = "/dev/log"
SYSLOG_PRIORITY = 16 * 8 + 6    # local0.info
FILE_MODE = 0o640
BATCH = 4096                    # lines of one ring that are Python objects at a time


class Rings(Protocol):
    """The compiled log door, ``flyproxy._speedups.shm.logring.LogReader``."""

    def fullest(self) -> float: ...
    def write(self, fd: int, torn: bool) -> tuple[int, int, int, bool]: ...
    def take(self, most: int) -> list[bytes]: ...


class Sink(Protocol):
    """``written`` and ``lost`` count lines; ``problem`` is the last error in words, None while all is well."""

    written: int
    lost: int
    problem: str | None

    def drain(self, rings: Rings) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class DescriptorSink:
    """Lines to a descriptor. After a short write (disk full) the next one begins on a line of its own."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        self.written = 0
        self.lost = 0
        self.problem: str | None = None
        self._torn = False

    def drain(self, rings: Rings) -> None:
        written, lost, error, self._torn = rings.write(self.fd, self._torn)
        self.written += written
        self.lost += lost
        self.problem = os.strerror(error) if error else None

    def reopen(self) -> None:
        """Nothing to do: the descriptor was given."""

    def close(self) -> None:
        """The descriptor stays open: it was given."""


class FileSink(DescriptorSink):
    """Lines to a file that is opened for appending, and again when it was renamed or removed (log rotation)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.reopen()

    def drain(self, rings: Rings) -> None:
        if self.fd < 0 or self._moved():
            self.reopen()
        unopened = self.problem if self.fd < 0 else None
        super().drain(rings)
        self.problem = unopened or self.problem

    def _moved(self) -> bool:
        try:
            there, ours = os.stat(self.path), os.fstat(self.fd)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def reopen(self) -> None:
        self.close()
        try:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            self.problem = error.strerror or str(error)
            return
        self.problem, self._torn = None, False

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class SyslogSink:
    """One datagram a line to the local syslog socket; a full or absent socket loses the line."""

    def __init__(self, address: str = SYSLOG_SOCKET) -> None:
        self.address = address
        self.written = 0
        self.lost = 0
        self.problem: str | None = None
        self.socket: socket.socket | None = None
        self.reopen()

    def drain(self, rings: Rings) -> None:
        lines = rings.take(BATCH)
        if self.socket is None:
            self.reopen()
        full = False
        for position, line in enumerate(lines):
            try:
                if self.socket is None:
                    raise OSError(self.problem)
                self.socket.send(b"<%d>flyproxy[%d]: %s" % (SYSLOG_PRIORITY, os.getpid(), line))
                self.written += 1
            except BlockingIOError:
                self.lost += 1
                full = True
            except OSError as error:
                self.lost += len(lines) - position
                self.problem = error.strerror or str(error)
                self.close()
                return
        self.problem = "the syslog socket is full" if full else None

    def reopen(self) -> None:
        self.close()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            made.connect(self.address)
        except OSError as error:
            made.close()
            self.problem = f"{self.address}: {error.strerror or error}"
            return
        self.socket, self.problem = made, None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None


def open_sink(access: str) -> Sink | None:
    """The sink for settings.log.access; None for "off"."""
    if access == "off":
        return None
    if access == "stderr":
        return DescriptorSink(2)
    if access == "syslog":
        return SyslogSink()
    return FileSink(access)
