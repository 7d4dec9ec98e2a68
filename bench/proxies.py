"""What runs during a benchmark: the backend and the contenders, each pinned to its core, on free ports; all of it ends
with the field."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from measure import LOAD_CORE

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent
PROXY_CORE = 0
READY_S = 30.0
C_FLAGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]


@dataclass(frozen=True)
class Ports:
    """Of something on 127.0.0.1 that speaks HTTP on one and raw TCP on the other."""

    http: int
    tcp: int


@dataclass(frozen=True)
class Proxy:
    """A running contender: one process tree for each hop, and the ports where it takes clients."""

    name: str
    pids: tuple[int, ...]
    at: Ports


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compile_tools(out: Path) -> None:
    """The relay, the backend and the sink, built as any peer is: with -O2."""
    for name in ("relay", "vm", "sink"):
        subprocess.run(["gcc", *C_FLAGS, "-o", str(out / name), str(HERE / f"{name}.c")], check=True)


class Field:
    """Everything that runs during a benchmark. A context manager: leaving it stops all of it. ``pinned`` False leaves
    the processes to the scheduler: for what measures throughput instead of cost."""

    def __init__(self, work: Path, pinned: bool = True) -> None:
        self.work, self.pinned = work, pinned
        self.children: list[subprocess.Popen[bytes]] = []
        self.vm = Ports(free_port(), free_port())

    def __enter__(self) -> Field:
        compile_tools(self.work)
        self.spawn([str(self.work / "vm"), str(self.vm.http), str(self.vm.tcp)], LOAD_CORE)
        self.await_port(self.vm.http)
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def folder(self) -> Path:
        """A new one, for one process."""
        path = self.work / str(len(list(self.work.iterdir())))
        path.mkdir()
        return path

    def config(self, name: str, folder: Path, **values: object) -> Path:
        """bench/peers/NAME in ``folder``, with every @KEY@ filled in; DIR is the folder."""
        text = (HERE / "peers" / name).read_text()
        for key, value in {"DIR": folder, **values}.items():
            text = text.replace(f"@{key}@", str(value))
        path = folder / name
        path.write_text(text)
        return path

    def spawn(self, command: list[str], core: int = PROXY_CORE, **env: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            ["taskset", "-c", str(core), *command] if self.pinned else command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.work / "stderr.log").open("ab"),
            env=os.environ | env,
        )
        self.children.append(child)
        return child

    def spawn_notifying(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """The same for a process that says READY=1, as systemd would hear it; returns when it has."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(folder / "notify"))
            notify.settimeout(READY_S)
            child = self.spawn(command, NOTIFY_SOCKET=str(folder / "notify"))
            while b"READY=1" not in notify.recv(4096):
                pass
        return child

    def await_port(self, port: int) -> None:
        """Connect until somebody listens; a child that ended instead is an error with its own words."""
        for _ in range(int(READY_S / 0.05)):
            ended = [child for child in self.children if child.poll() is not None]
            if ended:
                sys.exit(f"bench: {ended[0].args!r} ended: {(self.work / 'stderr.log').read_text()[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"bench: nobody listens on port {port} after {READY_S} s; see {self.work / 'stderr.log'}")
