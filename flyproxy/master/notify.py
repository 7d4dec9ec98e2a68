"""systemd's side of the master: notifications, and the store that keeps listening sockets over a restart.

Notifications are datagrams to $NOTIFY_SOCKET (sd_notify(3)); without systemd nothing is sent. Stored descriptors come
back at the next start as $LISTEN_FDS (sd_listen_fds(3)).
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_PACKET_FDS = 200  # SCM_MAX_FD is 253


class Notifier:
    """Says where the master stands. A lost datagram is no error: systemd has its own time limits."""

    def __init__(self, env: MutableMapping[str, str]) -> None:
        name = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if name else None
        usec = env.get("WATCHDOG_USEC", "")
        mine = env.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_every = int(usec) / 2e6 if usec.isdigit() and mine else 0.0
        """Seconds between two WATCHDOG=1; 0: systemd does not ask for them."""

    def send(self, **fields: str | int) -> None:
        """For example ``send(READY=1, STATUS="...")``."""
        self._send(fields, ())

    def reloading(self) -> None:
        """To be followed by READY=1; systemd wants the time of it."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Asks systemd to keep duplicates of ``fds`` under ``name`` until ``forget``, also while no master lives."""
        for start in range(0, len(fds), _PACKET_FDS):
            self._send({"FDSTORE": 1, "FDNAME": _fd_name(name)}, fds[start : start + _PACKET_FDS])

    def forget(self, name: str) -> None:
        """The reverse of store."""
        self.send(FDSTOREREMOVE=1, FDNAME=_fd_name(name))

    def _send(self, fields: Mapping[str, str | int], fds: Sequence[int]) -> None:
        if self._sock is None:
            return
        text = "\n".join(f"{key}={str(value).replace(chr(10), ' ')}" for key, value in fields.items())
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with contextlib.suppress(OSError):
            self._sock.sendmsg([text.encode()], rights, socket.MSG_NOSIGNAL, self._address)


def inherited_fds(env: MutableMapping[str, str]) -> list[int]:
    """What systemd kept or opened for us, close-on-exec from now on; asked once, the variables are removed."""
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    fds = list(range(_FIRST_FD, _FIRST_FD + int(count)))
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def _fd_name(name: str) -> str:
    return name.replace(":", "_")  # the one printable character that is not allowed
