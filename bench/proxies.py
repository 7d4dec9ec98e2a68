"""Starts the backend and every contender, each pinned to its core, on free ports; stops exactly what it started."""

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
class Proxy:
    """A running contender."""

    name: str
    pid: int
    http: int
    tcp: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compile_tools(out: Path) -> None:
    """The relay, the backend and the sink, built as any peer is: with -O2."""
    for name in ("relay", "vm", "sink"):
        subprocess.run(["gcc", *C_FLAGS, "-o", str(out / name), str(HERE / f"{name}.c")], check=True)


def nginx_modules() -> Path:
    for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"):
        if Path(folder, "ngx_stream_module.so").exists():
            return Path(folder)
    sys.exit("bench: nginx has no stream module; fix: scripts/bootstrap bench")


class Field:
    """Everything that runs during a benchmark. A context manager: leaving it stops all of it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.children: list[subprocess.Popen[bytes]] = []
        self.vm_http, self.vm_tcp = free_port(), free_port()

    def __enter__(self) -> Field:
        compile_tools(self.work)
        self._start(LOAD_CORE, [str(self.work / "vm"), str(self.vm_http), str(self.vm_tcp)])
        self._await_port(self.vm_http)
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

    def start(self, name: str) -> Proxy:
        return {
            "relay": self.relay,
            "relay-splice": self.relay_splice,
            "haproxy": self.haproxy,
            "nginx": self.nginx,
            "flyproxy": self.flyproxy,
        }[name]()

    def relay(self, mode: str = "copy") -> Proxy:
        http, tcp = free_port(), free_port()
        child = self._start(
            PROXY_CORE, [str(self.work / "relay"), mode, f"{http}:{self.vm_http}", f"{tcp}:{self.vm_tcp}"]
        )
        self._await_port(http)
        return Proxy("relay" if mode == "copy" else "relay-splice", child.pid, http, tcp)

    def relay_splice(self) -> Proxy:
        return self.relay("splice")

    def haproxy(self) -> Proxy:
        http, tcp = free_port(), free_port()
        config = self._config("haproxy.cfg", HTTP=http, TCP=tcp)
        child = self._start(PROXY_CORE, ["haproxy", "-db", "-f", str(config)])
        self._await_port(http)
        return Proxy("haproxy", child.pid, http, tcp)

    def nginx(self) -> Proxy:
        http, tcp = free_port(), free_port()
        config = self._config("nginx.conf", HTTP=http, TCP=tcp, MODULES=nginx_modules())
        child = self._start(PROXY_CORE, ["nginx", "-q", "-e", str(self.work / "nginx.log"), "-c", str(config)])
        self._await_port(http)
        return Proxy("nginx", child.pid, http, tcp)

    def flyproxy(self) -> Proxy:
        http, tcp = free_port(), free_port()
        config = self._config("flyproxy.toml", HTTP=http, TCP=tcp, ADMIN=free_port())
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(self.work / "notify"))
        notify.settimeout(READY_S)
        child = self._start(
            PROXY_CORE,
            [sys.executable, "-m", "flyproxy", "run", "-c", str(config)],
            NOTIFY_SOCKET=str(self.work / "notify"),
        )
        while b"READY=1" not in notify.recv(4096):
            pass
        notify.close()
        self._ctl(config, "apps", "apply", str(HERE / "peers/http.toml"))
        self._ctl(config, "machines", "add", "-a", "bench-http", "--address", f"127.0.0.1:{self.vm_http}")
        self._ctl(config, "hostnames", "add", "bench.localhost", "-a", "bench-http")
        self._ctl(config, "apps", "apply", str(HERE / "peers/tcp.toml"))
        self._ctl(config, "machines", "add", "-a", "bench-tcp", "--address", f"127.0.0.1:{self.vm_tcp}")
        return Proxy("flyproxy", child.pid, http, tcp)

    def _ctl(self, config: Path, *args: str) -> None:
        code = "from flyproxy.ctl.main import main; main()"
        subprocess.run(
            [sys.executable, "-c", code, "-c", str(config), *args], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
        )

    def _config(self, name: str, **values: object) -> Path:
        values |= {"VM_HTTP": self.vm_http, "VM_TCP": self.vm_tcp, "DIR": self.work}
        text = (HERE / "peers" / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.work / name
        path.write_text(text)
        return path

    def _start(self, core: int, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.work / "stderr.log").open("ab"),
            env=os.environ | env,
        )
        self.children.append(child)
        return child

    def _await_port(self, port: int) -> None:
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
