"""Runs the real master with fake children, and looks at it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[2]


class RunningMaster:
    """``config``: flyproxy.toml without [paths]. The folder's name is short, as a socket's path has 108 bytes."""

    def __init__(self, config: str = "", folder: Path | None = None, env: dict[str, str] | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="fpm-"))
        self.runtime = self.folder / "run"
        self.runtime.mkdir(exist_ok=True)
        self.file = self.folder / "flyproxy.toml"
        self.log_file = self.folder / "stderr.log"
        self.env = env or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Writes the settings; takes effect with the next start or reload."""
        paths = f'[paths]\nruntime = "{self.runtime}"\nstate = "{self.folder}/state"\n'
        self.file.write_text(f"{config}\n{paths}")

    def launch(self, prefix: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> RunningMaster:
        with self.log_file.open("ab") as out:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(ROOT / "tests/master/fake_master.py"), str(self.file)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "FPM_FOLDER": str(self.folder), **self.env},
                cwd=ROOT, stdin=subprocess.DEVNULL, stderr=out, pass_fds=pass_fds,
            )  # fmt: skip
        return self

    def start(self) -> RunningMaster:
        before = len(self.of("ready"))
        self.launch()
        until(lambda: len(self.of("ready")) > before or self.ended(), "the master is ready", 20)
        assert not self.ended(), self.text()
        return self

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def text(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def of(self, event: str) -> list[dict[str, Any]]:
        """The log records of one event."""
        found = []
        for line in self.text().splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record["event"] == event:
                    found.append(record)
        return found

    def ask(self, cmd: str, timeout: float = 15.0, **fields: Any) -> dict[str, Any]:
        """One command on ctl.sock; the whole answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout)
            line.connect(str(self.runtime / "ctl.sock"))
            line.sendall(json.dumps({"v": 1, "cmd": cmd, **fields}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile("rb").readline())
            return answer

    def status(self) -> dict[str, Any]:
        data: dict[str, Any] = self.ask("status")["data"]
        return data

    def workers(self, state: str = "ready") -> list[dict[str, Any]]:
        return [row for row in self.status()["workers"] if row["state"] == state]

    def behave(self, word: str) -> None:
        """How workers behave that start from now on."""
        (self.runtime / "behaviour").write_text(word)

    def addresses(self) -> list[tuple[str, int]]:
        """(IP, port) of everything that is listened on."""
        rows = [row["address"].rpartition(":") for row in self.status()["listeners"] if row["state"] == "listening"]
        return [(host.strip("[]"), int(port)) for host, _, port in rows]

    def connect(self, timeout: float = 5.0) -> tuple[socket.socket, int]:
        """A connection to the first listener and the pid of the worker that took it."""
        sock = socket.create_connection(self.addresses()[0], timeout)
        return sock, hello(sock)

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Sends the signal and waits; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def family(self) -> list[int]:
        """Every living process that was started for this folder: master, children, orphans."""
        mark = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if b"FPM_FOLDER=" + mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def clean(self) -> None:
        """Ends whatever is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def hello(sock: socket.socket) -> int:
    """The pid in a fake worker's greeting."""
    line = sock.makefile("rb").readline()
    assert line, "the connection was closed without a greeting"
    return int(line.split()[0])


class Hammer:
    """Connects again and again from a thread; keeps the longest wait (seconds) and every failure."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.slowest = 0.0
        self.served: list[int] = []  # pids
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Hammer:
        self._thread.start()
        self.until_served(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def until_served(self, more: int) -> None:
        """Waits until ``more`` further connections were served."""
        goal = len(self.served) + more
        until(lambda: len(self.served) >= goal or bool(self.failures), f"{more} more connections are served", 15)

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            begun = time.monotonic()
            try:
                with socket.create_connection(self.address, 5.0) as sock:
                    self.served.append(hello(sock))
            except (OSError, AssertionError) as error:
                self.failures.append(f"{error!r} after {time.monotonic() - begun:.2f} s")
            self.slowest = max(self.slowest, time.monotonic() - begun)
