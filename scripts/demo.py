"""The demo: a real flyproxy, two apps, three web servers as their machines; a few requests; then it is yours to try.

    python scripts/demo.py [--port 8080] [--dir .demo]        (make demo)

Everything it starts ends with it, on Ctrl-C or TERM, with exit code 0.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY_S = 30.0
STOP_S = 15.0
MACHINES = (("hello", "hello-1"), ("hello", "hello-2"), ("world", "world-1"))
APPS = ("hello", "world")


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


class Demo:
    """What runs, and where."""

    def __init__(self, port: int, folder: Path) -> None:
        self.dir = folder.resolve()
        self.socket_dir = self.dir / "run"
        if len(str(self.socket_dir)) > 90:
            raise DemoError(f"{self.dir} is too long for a unix socket; give a shorter DEMO_DIR")
        self.port = free_from(port, ("0.0.0.0", "::"))
        self.admin = free_from(9180, ("127.0.0.1",))
        self.children: list[subprocess.Popen[str]] = []
        if self.port != port:
            print(f"port {port} is taken: using {self.port}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        config = self.dir / "flyproxy.toml"
        config.write_text(self.settings())
        addresses = [self.start_vm(name) for _, name in MACHINES]
        self.start_proxy(config)
        print(f"flyproxy runs with {shown(config)}; its log is {shown(self.dir / 'flyproxy.log')}\n")
        for app in APPS:
            self.ctl("apps", "apply", f"examples/{app}.toml")
            self.ctl("hostnames", "add", f"{app}.localhost", "-a", app)
        for (app, name), address in zip(MACHINES, addresses, strict=True):
            self.ctl("machines", "add", name, "-a", app, "--address", address)

    def settings(self) -> str:
        """The example configuration with the demo's own ports and folders."""
        text = (ROOT / "examples/flyproxy.toml").read_text()
        for old, new in {
            '"[::]:8080"': f'"[::]:{self.port}"',
            '"127.0.0.1:9180"': f'"127.0.0.1:{self.admin}"',
            '"/run/flyproxy"': f'"{self.socket_dir}"',
            '"/var/lib/flyproxy"': f'"{self.dir / "state"}"',
        }.items():
            if old not in text:
                raise DemoError(f"examples/flyproxy.toml no longer has {old}, which the demo replaces")
            text = text.replace(old, new)
        return text

    def start_vm(self, name: str) -> str:
        child = self.spawn([sys.executable, "examples/vm.py", "--name", name], stdout=subprocess.PIPE)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line.startswith("listening "):
            raise DemoError(f"the web server {name} did not start")
        return line.split()[1]

    def start_proxy(self, config: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (self.dir / "flyproxy.log").open("w") as log:
            notify.bind(str(self.dir / "ready"))
            notify.settimeout(0.2)
            child = self.spawn(
                [sys.executable, "-m", "flyproxy", "run", "-c", str(config)],
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(self.dir / "ready")},
            )
            deadline = time.monotonic() + READY_S
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notify.recv(4096):
                        return
                if child.poll() is not None or time.monotonic() > deadline:
                    why = "ended" if child.poll() is not None else f"is not ready after {READY_S:g} s"
                    raise DemoError(f"flyproxy {why}; the end of its log:\n{self.log_end()}")

    def spawn(self, command: list[str], **options: object) -> subprocess.Popen[str]:
        """A child in a session of its own: a Ctrl-C of the terminal reaches only us, and we end all in order."""
        child = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options
        )  # type: ignore[call-overload]
        self.children.append(child)
        return child

    def ctl(self, *args: str) -> None:
        print(f"  $ {self.ctl_command()} {' '.join(args)}")
        done = subprocess.run(
            [sys.executable, "-m", "flyproxy.ctl", "--socket", str(self.socket_dir), *args],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        print(indented(done.stdout + done.stderr))
        if done.returncode:
            raise DemoError(f"flyproxyctl {' '.join(args)} exited with {done.returncode}")

    def ctl_command(self) -> str:
        return f"{shown(Path(sys.executable).parent / 'flyproxyctl')} --socket {shown(self.socket_dir)}"

    def log_end(self) -> str:
        return indented("\n".join((self.dir / "flyproxy.log").read_text().splitlines()[-20:]))

    def try_out(self) -> None:
        """A few requests, shown as they would be typed."""
        print()
        for host, path in (("hello", "/"), ("hello", "/"), ("hello", "/"), ("world", "/some/path"), ("nobody", "/")):
            command = f"curl -sS -H 'Host: {host}.localhost' {self.url}{path}"
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
            print(f"  $ {command}\n{indented(done.stdout + done.stderr)}")
            if done.returncode:
                raise DemoError(f"curl exited with {done.returncode}; the end of the log:\n{self.log_end()}")

    def invite(self) -> None:
        ctl = self.ctl_command()
        print(f"flyproxy demo ready: {self.url}")
        print("\nTry, in another terminal, in this folder:\n")
        for title, command in (
            (
                "which headers reach a machine",
                f"curl -sS --resolve hello.localhost:{self.port}:127.0.0.1 http://hello.localhost:{self.port}/headers",
            ),
            ("an answer's headers", f"curl -sS -i -H 'Host: world.localhost' {self.url}/"),
            (
                "an error of the proxy's own, for programs",
                f"curl -sS -H 'Accept: application/json' -H 'Host: nobody.localhost' {self.url}/",
            ),
            ("the processes", f"{ctl} status"),
            ("what is configured", f"{ctl} apps show hello"),
            ("take one machine out; hello-2 answers alone", f"{ctl} machines cordon hello-1"),
            ("see it", f"{ctl} machines list"),
            ("and back", f"{ctl} machines uncordon hello-1"),
            ("traffic by app", f"{ctl} top --once"),
            ("new workers, no request lost", f"{ctl} reload --workers"),
            ("metrics", f"curl -sS http://127.0.0.1:{self.admin}/metrics"),
        ):
            print(f"# {title}\n  $ {command}")
        print("\nCtrl-C ends it.", flush=True)

    def watch(self, stopping: threading.Event) -> None:
        """Until told to stop; a child that ends by itself is an error."""
        while not stopping.wait(0.5):
            ended = [child for child in self.children if child.poll() is not None]
            if ended:
                raise DemoError(f"{ended[0].args} ended; the end of flyproxy's log:\n{self.log_end()}")

    def stop(self) -> None:
        """The proxy first, so that nothing asks machines that are gone."""
        for child in reversed(self.children):
            child.send_signal(signal.SIGINT if child is self.children[-1] else signal.SIGTERM)
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


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


def on_signals(action: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: action())


def main() -> int:
    parser = argparse.ArgumentParser(description="flyproxy with two example apps")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--dir", type=Path, default=ROOT / ".demo")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    stopping = threading.Event()

    def stop_early() -> None:
        stopping.set()
        raise KeyboardInterrupt

    on_signals(stop_early)
    demo = None
    try:
        demo = Demo(args.port, args.dir)
        demo.start()
        demo.try_out()
        demo.invite()
        on_signals(stopping.set)
        demo.watch(stopping)
    except KeyboardInterrupt:
        pass
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        on_signals(lambda: None)  # a second Ctrl-C, or make passing on the first, must not cut the clean-up short
        if demo is not None:
            print("\nstopping ...")
            demo.stop()
    print("stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
