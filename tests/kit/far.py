"""The long way between two hosts, for tests and benchmarks: delay, loss and cuts, in user space, without netem.

The relay itself is far.c: several hundred MB/s at any delay. It stands in a way by its address: who wants to be far
from a server connects to the relay instead.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("far.c")
PROGRAM = ROOT / "build/kit/far"
Address = tuple[str, int]
Direction = Literal["forward", "back", "both"]
"""Forward is what the connecting side sends."""


class Counts(NamedTuple):
    """Bytes handed over in each direction, datagrams that came, and those of them that were lost on purpose."""

    forward: int
    back: int
    datagrams: int
    lost: int


@dataclass(frozen=True)
class Link:
    """One listener and where it leads. Port 0 takes a free one. The upstream sees the client's own address where this
    machine may use it, so for all of 127.0.0.0/8."""

    upstream: Address
    listen: Address = ("127.0.0.1", 0)
    kind: Literal["tcp", "udp"] = "tcp"


def program() -> Path:
    """far.c compiled; again when it changed. Processes that compile at once do not disturb each other."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        fresh = PROGRAM.with_name(f"far.{os.getpid()}")
        command = ["gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", str(fresh), str(SOURCE)]
        subprocess.run(command, check=True)
        fresh.replace(PROGRAM)
    return PROGRAM


class Far:
    """The relay as a process, from construction on; ``stop`` or a with block ends it. ``delay`` in seconds is one way,
    so a round trip is twice as long; ``rate`` in bytes/s, 0: none; ``loss`` is the share of the datagrams, chosen by
    ``seed``. ``prefix`` runs it somewhere else, for example in a namespace. Commands hold for all links, from when they
    return."""

    def __init__(
        self, *links: Link, delay: float = 0.0, loss: float = 0.0, seed: int = 1, rate: float = 0.0,
        prefix: Sequence[str] = (),
    ) -> None:  # fmt: skip
        ways = [
            text for link in links for text in (link.kind, link.listen[0], str(link.listen[1]), link.upstream[0],
                                                str(link.upstream[1]))
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [*prefix, str(program()), str(delay * 1e3), str(loss), str(seed), *ways],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.addresses: list[Address] = []
        for _ in links:
            ip, port = self._line().split()
            self.addresses.append((ip, int(port)))
        if rate:
            self.rate(rate)

    @property
    def address(self) -> Address:
        """Where the first link listens."""
        return self.addresses[0]

    def delay(self, seconds: float) -> None:
        """For what comes from now on; nothing overtakes what is under way."""
        self._say(f"delay {seconds * 1e3}")

    def rate(self, bytes_s: float) -> None:
        """Of the one line that all links share, in each direction; 0: no limit. What the line cannot take at once waits
        for at most 20 ms: then streams are read no more, datagrams are lost."""
        self._say(f"rate {bytes_s / 1e6}")

    def loss(self, share: float) -> None:
        """Of datagrams, 0 to 1."""
        self._say(f"loss {share}")

    def cut(self, direction: Direction = "both") -> None:
        """That direction, and only it, is dead until ``heal``: TCP waits, datagrams are lost, nobody is told."""
        self._say(f"cut {direction}")

    def heal(self) -> None:
        self._say("heal")

    def counts(self) -> Counts:
        return self._say("counts")

    def _say(self, command: str) -> Counts:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        verdict, *numbers = self._line().split()
        assert verdict == "ok", f"far does not take {command!r}: {verdict} {' '.join(numbers)}"
        return Counts(*map(int, numbers))

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"far ended with {self.process.wait(10)}"
        return line

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # it ends with its input, so also with a test run that is killed
        self.process.wait(10)
        self.process.stdout.close()

    def __enter__(self) -> Far:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
