"""What a master leaves to the program that takes its place in the same process: its state and its descriptors.

execve(2) keeps the pid, the children and every descriptor that is not close-on-exec, and nothing else. So the state
goes into a sealed memfd, whose number stands in the environment, and exactly what it names stays open.

The envelope (``v``, ``fds``) is what every version understands. What is inside may change with every version: a program
that does not know its number keeps the listening sockets among ``fds`` and begins anew around them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flyproxy import log
from flyproxy.master import model
from flyproxy.master.listeners import Book
from flyproxy.settings import Settings, from_json

ENV = "FLYPROXY_HANDOVER"  # PID:FD, so that it means nothing to any other process
VERSION = 1
"""Of Handover and everything in it; tests/master/test_handover.py fails when they change and this does not."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Member(msgspec.Struct, frozen=True):
    """A living child: its id in the supervisor's state, and the descriptors by which it is known."""

    id: int
    pid: int
    pidfd: int
    channel: int


class Asker(msgspec.Struct, frozen=True):
    """Who waits on ``ctl.sock`` for a reload to be done: its connection (None: hung up), and what to tell it then."""

    token: int
    fd: int | None
    report: dict[str, Any]


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """``upgrader`` is the connection of who asked for the upgrade; None: it was a signal."""

    program: str  # version of flyproxy
    settings: bytes  # as flyproxy.settings.to_json writes them
    lock: int
    token: str
    ctl: int
    procs: int
    segments: Mapping[str, int]
    wakes: Mapping[int, int]
    book: Book
    state: model.State
    members: list[Member]
    restarts: Mapping[str, int]
    epoch: int
    backhaul_ports: tuple[int, ...]
    next_token: int
    askers: list[Asker]
    upgrader: int | None
    wait_drained: bool

    def fds(self) -> list[int]:
        """Every descriptor that has to survive."""
        return [
            self.lock, self.ctl, *self.segments.values(), *self.wakes.values(), *self.book.fds(),
            *(fd for member in self.members for fd in (member.pidfd, member.channel)),
            *(fd for fd in (self.upgrader, *(asker.fd for asker in self.askers)) if fd is not None),
        ]  # fmt: skip


class Envelope(msgspec.Struct, frozen=True):
    """Never changes."""

    v: int
    fds: list[int]
    content: msgspec.Raw


@dataclass
class Inheritance:
    """What this program was left. ``handover`` None: it was written by a version that this one does not understand.

    ``settings`` are those that the last program had in force.
    """

    fds: list[int]
    handover: Handover | None = None
    settings: Settings = field(default_factory=Settings)

    def close(self, kept: Iterable[int] = ()) -> None:
        """Gives back what is of no use."""
        for fd in set(self.fds) - set(kept):
            with contextlib.suppress(OSError):
                os.close(fd)


def seal(handover: Handover) -> int:
    """A sealed memfd with the state. Raises OSError."""
    text = msgspec.msgpack.encode(Envelope(VERSION, handover.fds(), msgspec.Raw(msgspec.msgpack.encode(handover))))
    fd = os.memfd_create("flyproxy-handover", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(text)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


@contextlib.contextmanager
def surviving(fds: Iterable[int]) -> Iterator[None]:
    """Inside, ``fds`` survive an execve; if it fails they are close-on-exec again."""
    kept = list(fds)
    for fd in kept:
        os.set_inheritable(fd, True)
    try:
        yield
    finally:
        for fd in kept:
            os.set_inheritable(fd, False)


def environment(env: Mapping[str, str], memfd: int) -> dict[str, str]:
    """``env`` with the word that ``receive`` looks for."""
    return {**env, ENV: f"{os.getpid()}:{memfd}"}


def receive(env: MutableMapping[str, str]) -> Inheritance | None:
    """What the last program of this process left; None when this is a start. The variable is removed; every descriptor
    is close-on-exec from now on. Raises ValueError when what was left makes no sense."""
    pid, _, number = env.pop(ENV, "").partition(":")
    if pid != str(os.getpid()) or not number.isdigit():
        return None
    try:
        with os.fdopen(int(number), "rb") as file:
            file.seek(0)
            envelope = msgspec.msgpack.decode(file.read(), type=Envelope)
        for fd in envelope.fds:
            os.set_inheritable(fd, False)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"what the last program left for the upgrade cannot be read: {error}; its workers go on, "
                         "and the next master adopts them") from error  # fmt: skip
    found = Inheritance(envelope.fds)
    if envelope.v == VERSION:
        with contextlib.suppress(msgspec.DecodeError):  # also when the settings have another shape than ours
            handover = msgspec.msgpack.decode(envelope.content, type=Handover)
            found.settings, found.handover = from_json(handover.settings), handover
    if found.handover is None:
        log.warning("handover-unknown", f"the last program left its state in format {envelope.v}, and this one "
                    f"understands {VERSION}: only the listening sockets are kept")  # fmt: skip
    return found
