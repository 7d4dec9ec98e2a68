"""The demo: three regions on one machine, two apps, three web servers as their machines; then it is yours to try.

    python scripts/demo.py [--port 8080] [--dir .demo]        (make demo)

Each region is a whole flyproxy with its own processes; they share one store and reach each other over the backhaul.
Everything it starts ends with it, on Ctrl-C or TERM, with exit code 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from demo_parts import READY_S, ROOT, Child, DemoError, Host, Vm, free_from, indented, shown

REGIONS = ("yyz", "dfw", "syd")
APPS = ("hello", "world")
MACHINES = {"hello-1": ("hello", "yyz"), "hello-2": ("hello", "dfw"), "world-1": ("world", "syd")}
"""Machine to app and region."""


class Demo:
    """What runs, and where."""

    def __init__(self, port: int, folder: Path) -> None:
        self.dir = folder.resolve()
        if len(str(self.dir / REGIONS[0] / "run")) > 90:
            raise DemoError(f"{self.dir} is too long for a unix socket; give a shorter DEMO_DIR")
        self.hosts: dict[str, Host] = {}
        listen, admin = port, 9180
        for number, region in enumerate(REGIONS):
            listen, admin = free_from(listen, ("0.0.0.0", "::")), free_from(admin, ("127.0.0.1",))
            self.hosts[region] = Host(region, number, self.dir / region, listen, admin)
            listen, admin = listen + 1, admin + 1
        self.entry = self.hosts[REGIONS[0]]
        self.vms: dict[str, Vm] = {}
        if self.entry.port != port:
            print(f"port {port} is taken: using {self.entry.port}")

    # -- starting

    def start(self) -> None:
        shutil.rmtree(self.dir, ignore_errors=True)
        for host in self.hosts.values():
            host.dir.mkdir(parents=True)
        key = self.dir / "cluster.key"
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
            sink.write(os.urandom(32).hex() + "\n")
        for name in MACHINES:
            self.vms[name] = Vm(name)
        # The store stands in the first region's state folder, which that flyproxy makes: so it starts alone.
        database = self.entry.dir / "state/state.db"
        for host in self.hosts.values():
            (host.dir / "flyproxy.toml").write_text(host.settings(database, key))
            host.start()
            if host is self.entry:
                host.await_ready()
        for host in list(self.hosts.values())[1:]:
            host.await_ready()
        for host in self.hosts.values():
            print(f"flyproxy runs in {host.region}: {host.url}, {shown(host.dir)}/flyproxy.toml and flyproxy.log")
        print()
        self.deploy()

    def deploy(self) -> None:
        """The apps and their machines, said in one region; returns when all regions serve them."""
        for app in APPS:
            self.ctl("apps", "apply", f"examples/{app}.toml")
            self.ctl("hostnames", "add", f"{app}.localhost", "-a", app)
        for name, (app, region) in MACHINES.items():
            place = ("--region", region, "--host", self.hosts[region].id)
            self.ctl("machines", "add", name, "-a", app, "--address", self.vms[name].address, *place)
        newest, deadline = self.entry.revision(), time.monotonic() + READY_S
        for host in self.hosts.values():
            while host.revision() < newest:
                if time.monotonic() > deadline:
                    raise DemoError(f"{host.region} does not serve revision {newest} after {READY_S:g} s; the end of "
                                    f"its log:\n{host.log_end()}")  # fmt: skip
                time.sleep(0.05)

    def ctl(self, *args: str) -> None:
        print(f"  $ {self.entry.ctl_command()} {' '.join(args)}")
        done = self.entry.ctl(*args)
        print(indented(done.stdout + done.stderr))
        if done.returncode:
            raise DemoError(f"flyproxyctl {' '.join(args)} exited with {done.returncode}")

    # -- showing

    def try_out(self) -> None:
        """A few requests, shown as they would be typed."""
        print("\nEach request is answered by the nearest machine of its app, wherever it comes in:\n")
        self.request("yyz", "hello", by="hello-1")
        self.request("dfw", "hello", by="hello-2")
        self.request("yyz", "world", "/some/path", by="world-1")
        self.request("yyz", "nobody", by="PE03")
        print("hello-1 stops. What comes in in yyz goes to the next region:\n")
        address = self.vms["hello-1"].address
        self.vms["hello-1"].stop(signal.SIGTERM)
        self.request("yyz", "hello", by="hello-2")
        self.request("yyz", "hello", "/again", by="hello-2")
        self.vms["hello-1"] = Vm("hello-1", address)
        print("hello-1 is back:\n")
        self.request("yyz", "hello", by="hello-1")

    def request(self, region: str, app: str, path: str = "/", *, by: str) -> None:
        """Asks in ``region``; the answer must name ``by``."""
        command = curl(self.hosts[region], app, path)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        print(f"  $ {command}\n{indented(done.stdout + done.stderr)}")
        if done.returncode or by not in done.stdout:
            raise DemoError(f"that should have been answered by {by}; the end of the log in {region}:\n"
                            f"{self.hosts[region].log_end()}")  # fmt: skip

    def invite(self) -> None:
        print(f"flyproxy demo ready: {self.entry.url}")
        print("\nTry, in another terminal, in this folder:\n")
        for title, command in self.things_to_try():
            print(f"# {title}\n  $ {command}")
        print("\nCtrl-C ends it.", flush=True)

    def things_to_try(self) -> list[tuple[str, str]]:
        """Each with the command, in an order in which every one of them works."""
        yyz, _, syd = self.hosts.values()
        ctl, headers = yyz.ctl_command(), "curl -sS --resolve hello.localhost"
        return [
            ("which headers reach a machine", f"{headers}:{yyz.port}:127.0.0.1 http://hello.localhost:{yyz.port}/headers"),
            ("an answer's headers; it comes from syd over the mesh", curl(yyz, "world", "/", "-i")),
            ("hello asked in syd, where it has no machine: the nearer of yyz and dfw answers", curl(syd, "hello")),
            ("an error of the proxy's own, for programs", curl(yyz, "nobody", "/", "-H 'Accept: application/json'")),
            ("the hosts of the mesh as yyz sees them: measured round trips, direct or not", f"{ctl} hosts list"),
            ("the processes of yyz", f"{ctl} status"),
            ("those of syd", f"{syd.ctl_command()} status"),
            ("what is configured", f"{ctl} apps show hello"),
            ("take the machine in yyz out; hello-2 in dfw answers alone", f"{ctl} machines cordon hello-1"),
            ("see it", curl(yyz, "hello")),
            ("and how it is listed", f"{ctl} machines list"),
            ("and back", f"{ctl} machines uncordon hello-1"),
            ("traffic by app", f"{ctl} top --once"),
            ("new workers in yyz, no request lost", f"{ctl} reload --workers"),
            ("metrics", f"curl -sS http://127.0.0.1:{yyz.admin}/metrics"),
        ]

    # -- ending

    def children(self) -> list[Child]:
        """Proxies before machines, so that nothing asks machines that are gone."""
        return [host.proxy for host in self.hosts.values() if host.proxy] + list(self.vms.values())

    def watch(self, stopping: threading.Event) -> None:
        """Until told to stop; a child that ends by itself is an error."""
        while not stopping.wait(0.5):
            for child in self.children():
                if child.ended:
                    logs = "\n".join(f"{host.region}:\n{host.log_end()}" for host in self.hosts.values())
                    raise DemoError(f"{child.name} ended; the ends of the logs:\n{logs}")

    def stop(self) -> None:
        for child in self.children():
            child.stop(signal.SIGTERM if isinstance(child, Vm) else signal.SIGINT)


def curl(host: Host, app: str, path: str = "/", options: str = "") -> str:
    return " ".join(filter(None, ["curl -sS", options, f"-H 'Host: {app}.localhost'", f"{host.url}{path}"]))


def on_signals(action: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: action())


def main() -> int:
    parser = argparse.ArgumentParser(description="flyproxy in three regions with two example apps")
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
