"""What the demo is made of: web servers that stand for VMs, a host in each region, free ports."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY_S = 30.0
STOP_S = 15.0


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


class Child:
    """A process in a session of its own: a Ctrl-C of the terminal reaches only us, and we end all in order."""

    def __init__(self, command: list[str], **options: object) -> None:
        self.name = " ".join(command[1:3])
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options
        )  # type: ignore[call-overload]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self, sig: int) -> None:
        self.process.send_signal(sig)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Vm(Child):
    """A web server that stands for a machine; another one with its ``address`` takes its place."""

    def __init__(self, name: str, address: str = "127.0.0.1:0") -> None:
        port = address.rpartition(":")[2]
        super().__init__([sys.executable, "examples/vm.py", "--name", name, "--port", port], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening "):
            raise DemoError(f"the web server {name} did not start")
        self.address = line.split()[1]


@dataclass
class Host:
    """A region's one host: a whole flyproxy. ``number`` counts the regions and makes the mesh address."""

    region: str
    number: int
    dir: Path
    port: int
    admin: int
    proxy: Child | None = field(default=None)

    @property
    def id(self) -> str:
        return f"{self.region}-1"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_dir(self) -> Path:
        return self.dir / "run"

    @property
    def log(self) -> Path:
        return self.dir / "flyproxy.log"

    def settings(self, database: Path, key_file: Path) -> str:
        """The example configuration with the host's own ports and folders, the common store, and the mesh."""
        text = (ROOT / "examples/flyproxy.toml").read_text()
        for old, new in {
            'region = "loc"': f'region = "{self.region}"\nhost = "{self.id}"',
            '"[::]:8080"': f'"[::]:{self.port}"',
            '"127.0.0.1:9180"': f'"127.0.0.1:{self.admin}"',
            '"/run/flyproxy"': f'"{self.socket_dir}"',
            '"/var/lib/flyproxy"': f'"{self.dir / "state"}"',
        }.items():
            if old not in text:
                raise DemoError(f"examples/flyproxy.toml no longer has {old}, which the demo replaces")
            text = text.replace(old, new)
        return text + (
            f'\n[state]\nurl = "{database}"            # one store for all regions\n'
            f'\n[backhaul]\naddress = "127.0.0.{11 + self.number}:0"     # the other regions reach this host here\n'
            f'key_file = "{key_file}"\n'
        )

    def start(self) -> None:
        """Begins it; ``await_ready`` ends the start."""
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.dir / "ready"))
        self.notify.settimeout(0.2)
        command = [sys.executable, "-m", "flyproxy", "run", "-c", str(self.dir / "flyproxy.toml")]
        with self.log.open("w") as log:
            env = os.environ | {"NOTIFY_SOCKET": str(self.dir / "ready")}
            self.proxy = Child(command, stdout=log, stderr=log, env=env)

    def await_ready(self) -> None:
        assert self.proxy is not None
        deadline = time.monotonic() + READY_S
        with self.notify:
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in self.notify.recv(4096):
                        return
                if self.proxy.ended or time.monotonic() > deadline:
                    why = "ended" if self.proxy.ended else f"is not ready after {READY_S:g} s"
                    raise DemoError(f"flyproxy in {self.region} {why}; the end of its log:\n{self.log_end()}")

    def ctl(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flyproxy.ctl", "--socket", str(self.socket_dir), *args]
        return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def ctl_command(self) -> str:
        """What one would type for it."""
        return f"{shown(Path(sys.executable).parent / 'flyproxyctl')} --socket {shown(self.socket_dir)}"

    def revision(self) -> int:
        """Which state of the store all its workers serve."""
        done = self.ctl("--json", "status")
        if done.returncode:
            raise DemoError(f"flyproxyctl status exited with {done.returncode} in {self.region}: {done.stderr}")
        return int(json.loads(done.stdout)["data"]["revision"])

    def log_end(self) -> str:
        return indented("\n".join(self.log.read_text().splitlines()[-20:]))


def free_from(first: int, hosts: tuple[str, ...]) -> int:
    """The first port from ``first`` on that is free on all these addresses."""
    for port in range(first, min(first + 200, 65536)):
        if all(is_free(host, port) for host in hosts):
            return port
    raise DemoError(f"no free port from {first} on; give another DEMO_PORT")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there; an address family that the kernel lacks is in nobody's way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        return family == socket.AF_INET6 and error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def shown(path: Path) -> str:
    """Relative to the checkout where possible: the commands are meant to be typed there."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def indented(text: str) -> str:
    return "\n".join(f"      {line}" for line in text.rstrip().splitlines())
