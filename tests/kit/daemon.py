"""The real ``flyproxy run`` under test: writes its configuration, waits for READY=1, and insists on a clean end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kit.client import RawClient
from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[2]
READY_S = 20.0
STOP_S = 20.0
BAD_LEVELS = ("warning", "error")
COMMANDS = threading.Lock()  # sys.stdout is redirected while one runs
ALWAYS_ALLOWED = ("privileges-kept",)  # where a test runs is no fault of the proxy's


def toml(settings: Mapping[str, Any]) -> str:
    """Two levels of TOML: top keys, [tables] and [[arrays of tables]]."""

    def pairs(table: Mapping[str, Any]) -> list[str]:
        return [f"{key} = {json.dumps(value)}" for key, value in table.items()]

    top = {key: value for key, value in settings.items() if not isinstance(value, dict) and key != "listeners"}
    lines = pairs(top)
    for name, table in settings.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *pairs(table)]
    for listener in settings.get("listeners", []):
        lines += ["", "[[listeners]]", *pairs(listener)]
    return "\n".join(lines) + "\n"


EPHEMERAL = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
PORTS = random.Random()  # hypothesis seeds the common one, in all processes alike


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has right now; only for what cannot be told to take port 0. None that the kernel
    would give to the next connection of some other test."""
    while True:
        port = PORTS.randrange(10_000, EPHEMERAL)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def command_line(pid: int) -> bytes:
    """Of a process, which may set it as its title; empty once it has ended: also while it is asked for."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class ProxyDaemon:
    """``listeners``: name to its table of flyproxy.toml; the address is 127.0.0.1 and a free port unless given, and no
    two may stand for the same service port on the same address. ``settings``: further tables."""

    def __init__(
        self,
        listeners: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        allowed: Sequence[str] = (),
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="fpt-"))  # short: a unix socket's path has 108 bytes
        self.admin_port = free_port()
        self.listeners = {
            name: {"address": "127.0.0.1:0", **table}
            for name, table in ({"http": {"port": 80}} if listeners is None else listeners).items()
        }
        defaults: dict[str, Any] = {
            "region": "loc",
            "paths": {"runtime": str(self.dir / "run"), "state": str(self.dir / "state")},
            "workers": {"count": 1},
            "admin": {"address": f"127.0.0.1:{self.admin_port}"},
            "app_ports": [],
            "table": {"apps": 100, "hostnames": 200, "addresses": 50, "machines": 500},
        }
        for key, value in settings.items():
            defaults[key] = {**defaults.get(key, {}), **value} if isinstance(value, Mapping) else value
        defaults["listeners"] = list(self.listeners.values())
        self.config = self.dir / "flyproxy.toml"
        self.config.write_text(toml(defaults))
        self.allowed = [*ALWAYS_ALLOWED, *allowed]  # events that may be logged as warning or error; "*": any
        self.prefix, self.env, self.root = list(prefix), dict(env or {}), ROOT  # where the package is imported from
        self.log_file = self.dir / "stderr.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, tuple[str, int]] = {}

    # -- life

    def start(self) -> ProxyDaemon:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log_file.open("ab") as log:
            notify.bind(str(self.dir / "notify"))
            notify.settimeout(0.2)
            env = {**os.environ, **self.env, "NOTIFY_SOCKET": str(self.dir / "notify")}
            command = [*self.prefix, sys.executable, "-m", "flyproxy", "run", "-c", str(self.config)]
            self.process = subprocess.Popen(
                command, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
            try:
                until(lambda: self._told_ready(notify), "flyproxy says READY=1", READY_S)
                until((self.dir / "run/api.sock").exists, "control answers", READY_S)
            except AssertionError as error:
                self.kill()
                raise AssertionError(f"{error}\n{self.log()}") from None
        return self

    def _told_ready(self, notify: socket.socket) -> bool:
        assert self.process is not None and self.process.poll() is None, "flyproxy ended before it was ready"
        try:
            return b"READY=1" in notify.recv(4096)
        except TimeoutError:
            return False

    def stop(self, sig: int = signal.SIGINT) -> None:
        """End it and insist: exit code 0 in time, nothing unexpected logged, no process left."""
        assert self.process is not None
        family = self.processes()
        self.process.send_signal(sig)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"flyproxy did not end within {STOP_S} s\n{self.log()}") from None
        unexpected = self.unexpected()
        assert code == 0, f"flyproxy ended with {code}\n{self.log()}"
        assert not unexpected, "unexpected in the log:\n" + "\n".join(unexpected)
        left = [pid for pid in family if Path(f"/proc/{pid}").exists()]
        assert not left, f"processes left behind: {left}"
        shutil.rmtree(self.dir, ignore_errors=True)

    def kill(self) -> None:
        """For a daemon that a test has given up."""
        if self.process is not None:
            for pid in reversed(self.processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def processes(self) -> list[int]:
        """The master and all below it."""

        def below(pid: int) -> list[int]:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                return []
            return [pid, *(each for child in children for each in below(int(child)))]

        return below(self.process.pid) if self.process else []

    def workers(self) -> list[int]:
        return [pid for pid in self.processes() if command_line(pid).startswith(b"flyproxy: worker")]

    # -- what it says

    def log(self, last: int = 60) -> str:
        return (
            "\n".join(self.log_file.read_text(errors="replace").splitlines()[-last:]) if self.log_file.exists() else ""
        )

    def events(self) -> list[dict[str, Any]]:
        """The log as records; a line that is no JSON is {"event": "not-json"}."""
        records = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                records.append({"event": "not-json", "level": "error", "message": line})
        return records

    def unexpected(self) -> list[str]:
        return [
            json.dumps(record)
            for record in self.events()
            if record.get("level") in BAD_LEVELS and not {record.get("event"), "*"} & set(self.allowed)
        ]

    def metrics(self) -> dict[str, float]:
        """The metrics page: sample line's name with labels to its value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as page:
            text = page.read().decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def metric(self, name: str, **labels: str) -> float:
        """Sum over all series of the family whose labels match."""
        return sum(
            value
            for key, value in self.metrics().items()
            if key.partition("{")[0] == name and all(f'{label}="{text}"' in key for label, text in labels.items())
        )

    # -- commands

    def ctl(self, *args: str) -> Any:
        """``flyproxyctl --json ARGS``: the data it printed. In this process: starting an interpreter is slow."""
        from flyproxy.ctl.main import main

        out, err = io.StringIO(), io.StringIO()
        with COMMANDS, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["--socket", str(self.dir / "run"), "--json", *args])
        assert code == 0, f"flyproxyctl {' '.join(args)} exited with {code}: {err.getvalue()}{out.getvalue()}"
        return json.loads(out.getvalue())["data"]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ctl("status")
        return status

    def add_app(
        self, name: str, toml_text: str = "", machines: Sequence[str] = (), hostnames: Sequence[str] = ()
    ) -> list[str]:
        """Applies an app (default: one http_service), adds machines by address and host names. Returns machine ids."""
        path = self.dir / f"{name}.toml"
        path.write_text(f'app = "{name}"\n' + (toml_text or "[http_service]\ninternal_port = 8080\n"))
        self.ctl("apps", "apply", str(path))
        ids = [f"{name}-{number}" for number in range(1, len(machines) + 1)]
        for machine, address in zip(ids, machines, strict=True):
            self.ctl("machines", "add", machine, "-a", name, "--address", address)
        for hostname in hostnames:
            self.ctl("hostnames", "add", hostname, "-a", name)
        return ids

    def address(self, name: str = "http") -> tuple[str, int]:
        """Where a listener really listens."""
        if name not in self._ports:
            real = self.status()["listeners"]
            for each, table in self.listeners.items():
                host = table["address"].rpartition(":")[0]
                match = [
                    one for one in real if one["port"] == table["port"] and one["address"].rpartition(":")[0] == host
                ]
                assert len(match) == 1, f"listener {each} is not told apart in {real}"
                self._ports[each] = (host.strip("[]"), int(match[0]["address"].rpartition(":")[2]))
        return self._ports[name]

    def port(self, name: str = "http") -> int:
        return self.address(name)[1]

    def client(self, name: str = "http", timeout: float = 10.0, rcvbuf: int = 0) -> RawClient:
        return RawClient(self.address(name), timeout, rcvbuf)
