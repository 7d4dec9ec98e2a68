"""What the next master needs when this one is killed: who its children are, and proof that they are still the same.

``processes.json`` in the runtime folder lists the living children with pid, start time (field 22 of /proc/PID/stat,
proc(5)) and a token: the name of a memfd that they inherit. (A variable in their environment would not do: process
titles are written over that.) The next master opens a pidfd *first* and checks start time and token then, so a pid that
was given to another process is never mistaken. From orphaned workers it takes the listening sockets (pidfd_getfd(2)),
so no queued connection is lost; orphaned ``state`` and ``control`` end by themselves when their channel closes, and it
waits for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flyproxy.master.listeners import Inherited

_PIDFD_GETFD = 438  # asm-generic/unistd.h; the same number on every architecture
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC  # the folder may belong to the children's user: its links are not ours to follow
_END_TIMEOUT = 2.0  # seconds that an orphaned state or control may take to end by itself


class AlreadyRunning(Exception):
    """Another master holds the runtime folder; the text says which."""


@dataclass
class Orphan:
    """A living child of a dead master."""

    role: str
    pid: int
    pidfd: int
    entry: dict[str, Any]

    def signal(self, number: int) -> None:
        """Sends a signal to this very process; a dead one is no error."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def ended(self, timeout: float = 0.0) -> bool:
        """Whether it has died, waiting up to ``timeout`` seconds for it."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def reap(self) -> None:
        """After its end: one that is our own child, because the master became this program, waits to be asked."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)


class Ledger:
    """The lock that makes one master of a runtime folder the only one, and the list of its children."""

    def __init__(self, runtime: str) -> None:
        self._path = Path(runtime, "processes.json")
        self._lock_path = Path(runtime, "master.lock")
        self._lock: IO[str] | None = None
        self.token = secrets.token_hex(16)
        self._badge: int | None = None

    @classmethod
    def kept(cls, runtime: str, lock: int, token: str) -> Ledger:
        """That of the last program of this process: a lock belongs to the open file (flock(2)), so it stayed ours."""
        book = cls(runtime)
        book._lock, book.token = os.fdopen(lock, "r+"), token
        return book

    def badge(self) -> int:
        """The descriptor that children inherit and keep: its name proves whose they are."""
        if self._badge is None:
            self._badge = os.memfd_create(_badge_name(self.token))
        return self._badge

    def fileno(self) -> int:
        """The descriptor that holds the lock."""
        assert self._lock is not None, "not locked"
        return self._lock.fileno()

    def lock(self) -> None:
        """Raises AlreadyRunning, OSError. The kernel gives the lock back when the master dies, however it dies."""
        lock = os.fdopen(os.open(self._lock_path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600), "r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = lock.read().strip() or "?"
            lock.close()
            raise AlreadyRunning(
                f"a master with pid {pid} already runs with the runtime folder {self._lock_path.parent}; stop it "
                f"(kill {pid}), or choose another folder: [paths] runtime or FLYPROXY_RUNTIME_DIR"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def write(self, children: Iterable[tuple[str, int]], orphans: Iterable[Orphan]) -> None:
        """Replaces the list: (role, pid) of ours, and the orphans that still live."""
        entries = [
            {"role": role, "pid": pid, "start": start_time(pid), "token": self.token} for role, pid in children
        ] + [orphan.entry for orphan in orphans]
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600), "w") as file:
            json.dump(entries, file)
        fresh.replace(self._path)

    def remove(self) -> None:
        """After an orderly end there is nothing to adopt."""
        self._path.unlink(missing_ok=True)

    def orphans(self) -> list[Orphan]:
        """The children of the last master that still live, each proven."""
        try:
            with os.fdopen(os.open(self._path, os.O_RDONLY | _SAFE)) as file:
                entries = json.load(file) if os.fstat(file.fileno()).st_uid == os.geteuid() else []
        except (OSError, ValueError):
            return []
        return [orphan for entry in entries if (orphan := _prove(entry)) is not None]


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of the process; 0 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def end_quietly(orphans: Iterable[Orphan]) -> None:
    """Waits for orphaned state and control processes, which leave by themselves, and kills what does not."""
    deadline = time.monotonic() + _END_TIMEOUT
    for orphan in orphans:
        if not orphan.ended(max(0.0, deadline - time.monotonic())):
            orphan.signal(signal.SIGKILL)
            orphan.ended(_END_TIMEOUT)
        orphan.reap()


def listening(fds: Iterable[int]) -> list[int]:
    """Those that are listening TCP sockets."""
    found = []
    for fd in fds:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sock = socket.socket(fileno=fd)
            if _listens(sock):
                found.append(fd)
            sock.detach()
    return found


def take_sockets(orphans: Iterable[Orphan], given: Iterable[int] = ()) -> Inherited:
    """Our own descriptors of the TCP sockets that orphaned workers listen on and of those among ``given`` (kept by
    systemd), by address; a socket that comes in several ways is taken once."""
    found: Inherited = {}
    seen: set[int] = set()
    for fd in (*given, *(fd for orphan in orphans for fd in _copied_sockets(orphan))):
        inode = os.fstat(fd).st_ino
        sock = socket.socket(fileno=fd) if inode not in seen and stat.S_ISSOCK(os.fstat(fd).st_mode) else None
        seen.add(inode)
        if sock is not None and _listens(sock):
            sock.setblocking(False)
            found.setdefault(sock.getsockname()[:2], []).append(sock)
        elif sock is not None:
            sock.close()
        else:
            os.close(fd)
    return found


def _prove(entry: dict[str, Any]) -> Orphan | None:
    try:
        role, pid, start, token = entry["role"], int(entry["pid"]), int(entry["start"]), entry["token"]
        pidfd = os.pidfd_open(pid)
    except (KeyError, TypeError, ValueError, OSError):
        return None
    orphan = Orphan(role, pid, pidfd, entry)
    if start_time(pid) == start and _has_token(pid, token) and not orphan.ended():
        return orphan
    os.close(pidfd)
    return None


def _badge_name(token: str) -> str:
    return f"flyproxy-{token}"


def _has_token(pid: int, token: str) -> bool:
    badge = f"/memfd:{_badge_name(token)} (deleted)"
    try:
        return any(_link(file) == badge for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _link(file: Path) -> str:
    """Empty for a descriptor that is closed meanwhile: a worker's come and go."""
    try:
        return os.readlink(file)
    except OSError:
        return ""


def _copied_sockets(orphan: Orphan) -> Iterator[int]:
    """A duplicate of every socket of the process, lowest number first; it takes the right to trace the process."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    try:
        numbers = sorted(int(link.name) for link in Path(f"/proc/{orphan.pid}/fd").iterdir())
    except OSError:
        return
    for number in numbers:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{orphan.pid}/fd/{number}").startswith("socket:"):
                fd = syscall(_PIDFD_GETFD, orphan.pidfd, number, 0)
                if fd >= 0:
                    yield fd


def _listens(sock: socket.socket) -> bool:
    """Whether it is a listening TCP socket."""
    internet = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    return internet and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
