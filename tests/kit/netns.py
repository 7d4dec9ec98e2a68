"""Real hosts on one machine: network namespaces, each with an interface of its own on one bridge.

The bridge lives in a namespace too, so the machine's own network never sees any of it. Names carry this process's id:
nobody else's are touched, and what a killed run left behind is removed by the next one. Needs root and Debian's
iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

CLONE_NEWNET = 0x40000000  # sched.h
FOLDER = Path("/run/netns")  # where ip-netns(8) keeps names
NETWORK = "10.77.0."
NOBODY = "02:00:00:00:00:00"  # a link-layer address that no host has
STOP_S = 10.0
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*args: str) -> str:
    """ip(8); AssertionError with its own words when it fails."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr.strip()}"
    return done.stdout


def enter(fd: int) -> None:
    """setns(2): this thread alone is in that network from now on."""
    if _libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def sweep() -> None:
    """Removes namespaces of processes that are gone."""
    for name in [entry.name for entry in FOLDER.glob("fpt*")] if FOLDER.exists() else []:
        match = re.match(r"fpt(\d+)-", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            with contextlib.suppress(AssertionError):
                ip("netns", "del", name)


class Host:
    """One namespace. ``address`` is its own on the bridge, ``prefix`` what runs a command inside (also ProxyDaemon's).

    Processes that ``start`` began end with the network."""

    def __init__(self, name: str, number: int, hub: str, cleanup: contextlib.ExitStack) -> None:
        self.name, self.hub, self.port = name, hub, f"port{number}"
        self.address = f"{NETWORK}{number}"
        self.prefix = ("ip", "netns", "exec", name)
        self._cleanup = cleanup
        add_namespace(name, cleanup)
        ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", self.port, "netns", hub)
        ip("-n", hub, "link", "set", self.port, "master", "bridge", "up")
        ip("-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")

    def ip(self, *args: str) -> str:
        """ip(8) in this namespace."""
        return ip("-n", self.name, *args)

    def run(self, *command: str, input: str | None = None) -> str:
        """What the command prints; AssertionError with its own words when it fails."""
        done = subprocess.run([*self.prefix, *command], input=input, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: exit code {done.returncode}: {done.stderr}"
        return done.stdout

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """A process in this namespace (``options`` of Popen); ip-netns(8) becomes the command, so its pid is right."""
        child = subprocess.Popen([*self.prefix, *command], **{"stdin": subprocess.DEVNULL, **options})
        self._cleanup.callback(end, child)
        return child

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile belong to this host, for good."""
        with open("/proc/thread-self/ns/net") as before, open(FOLDER / self.name) as mine:
            enter(mine.fileno())
            try:
                yield
            finally:
                enter(before.fileno())

    def cut(self) -> None:
        """Nothing comes from or to this host any more; no side is told."""
        ip("-n", self.hub, "link", "set", self.port, "nomaster")

    def heal(self) -> None:
        ip("-n", self.hub, "link", "set", self.port, "master", "bridge")

    def lose(self, peer: Host) -> None:
        """What this host sends to ``peer`` goes nowhere, and nobody is told; the other way and all others stay."""
        self.ip("neigh", "replace", peer.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def find(self, peer: Host) -> None:
        """The reverse of ``lose``."""
        self.ip("neigh", "del", peer.address, "dev", "eth0")


def add_namespace(name: str, cleanup: contextlib.ExitStack) -> None:
    ip("netns", "add", name)
    cleanup.callback(ip, "netns", "del", name)
    ip("-n", name, "link", "set", "lo", "up")


def end(child: subprocess.Popen[Any]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class Network:
    """``count`` hosts that reach each other. A context manager: leaving it, also after a failure inside or half-way
    through the construction, ends the hosts' processes and deletes everything."""

    def __init__(self, count: int) -> None:
        sweep()
        base = f"fpt{os.getpid()}-{next(_numbers)}"
        hub = f"{base}-hub"
        self.cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(self.cleanup.close)
            add_namespace(hub, self.cleanup)
            ip("-n", hub, "link", "add", "bridge", "type", "bridge")
            ip("-n", hub, "link", "set", "bridge", "up")
            self.hosts = [Host(f"{base}-{number}", number, hub, self.cleanup) for number in range(1, count + 1)]
            unfinished.pop_all()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.cleanup.close()
