"""The real ``control`` and ``state`` processes, started over a real channel as the master starts them.

The test is the master: it makes the shared segments, hands them out with the rights that the roles have, answers
``status`` on a real ctl.sock, and plays the workers' part of the root segment.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from flyproxy.boot import Boot, boot_message, settings_json
from flyproxy.channel import ENV_FD, Channel
from flyproxy.ctl.client import Api
from flyproxy.master.ctl import CtlServer
from flyproxy.settings import load, resolved
from tests.kit.daemon import toml
from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[2]
PROCS = 16
WRITES = {"state": {"root", "table0", "table1", "load"}, "control": {"load", "logs"}}


class Host:
    """One host without workers: segments, store, and the processes that a test starts."""

    def __init__(self, **tables) -> None:
        from flyproxy._speedups.shm.beat import Root, create_segments
        self.folder = Path(tempfile.mkdtemp(prefix="fpc-"))     # short: a unix socket's path has 108 bytes
        self.config = self.folder / "flyproxy.toml"
        self.write_settings(**tables)
        table = self.settings.table
        self.fds = create_segments(apps=table.apps, hostnames=table.hostnames, addresses=table.addresses,
                                   machines=table.machines, procs=PROCS, slots=2)
        self.root = Root(self.fds, writable=True)
        self.wakes = {proc: os.eventfd(0, os.EFD_NONBLOCK) for proc in range(PROCS)}
        self.children = {}
        self.api = Api(str(self.folder))
        self.status = {"version": "0", "region": "loc", "host": "h1", "workers": [], "restarts": {"stuck engine": 2},
                       "listeners": [{"address": "127.0.0.1:8080", "port": 80, "service_port": 80,
                                      "source": "settings", "state": "listening"}]}
        self._master = None

    def write_settings(self, **tables) -> None:
        defaults = {"region": "loc", "host": "h1", "paths": {"runtime": str(self.folder), "state": str(self.folder)},
                    "admin": {"address": "127.0.0.1:0"}, "log": {"level": "debug"},
                    "table": {"apps": 100, "hostnames": 200, "addresses": 50, "machines": 500}}
        for name, table in tables.items():
            defaults[name] = {**defaults[name], **table} if isinstance(table, dict) and name in defaults else table
        self.config.write_text(toml(defaults))
        self.settings = resolved(load(str(self.config), {}))

    def start(self, role: str) -> None:
        """A child of this role; returns once it says that it is ready."""
        from flyproxy._speedups.shm.beat import read_only_fd
        channel, theirs = Channel.pair()
        log = (self.folder / f"{role}.log").open("ab")
        env = {**os.environ, ENV_FD: str(theirs.fileno()), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-m", f"flyproxy.{role}"], pass_fds=[theirs.fileno()], env=env,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        theirs.close()
        log.close()
        self.children[role] = (process, channel)
        fds = {name: fd if name in WRITES[role] else read_only_fd(fd) for name, fd in self.fds.items()}
        boot = Boot(role=role, index=0, proc=None, generation=1, settings=self.settings, segment_fds=fds,
                    wake_fds=self.wakes, runtime=str(self.folder), state_dir=str(self.folder),
                    epoch=1_800_000_000, backhaul_ports=(7443, 7444), cluster_key=b"0123456789abcdef")
        channel.send(*boot_message(boot, None))
        for name, fd in fds.items():
            if name not in WRITES[role]:
                os.close(fd)
        self.hear(role, "ready")

    def hear(self, role: str, kind: str) -> dict:
        """The next message of this kind from a child."""
        async def listen():
            async with asyncio.timeout(15):
                while True:
                    message, _ = await self.children[role][1].recv()
                    if message["t"] == kind:
                        return message
        try:
            return asyncio.run(listen())
        except Exception as error:
            raise AssertionError(f"{role} did not say {kind!r}: {error!r}\n{self.log(role)}") from error

    def worker(self, proc: int, state: str = "ready"):
        """A process index as an engine holds it: reads the table when told to, counts what it is told to count."""
        from flyproxy._speedups._testing_shm import Worker
        self.root.claim_proc(proc, 1000 + proc)
        self.root.set_proc_state(proc, state)
        return Worker(self.fds, proc, self.wakes)

    def send_settings(self) -> None:
        for _, channel in self.children.values():
            channel.send({"t": "settings", "settings": settings_json(self.settings)})

    def serve_master(self) -> None:
        """A ctl.sock that answers ``status`` with what the test put there."""
        async def answer(request):
            return self.status

        async def workers(request):
            return self.status["workers"]

        ready = threading.Event()

        async def serve():
            server = CtlServer(str(self.folder / "ctl.sock"), {"status": answer, "workers": workers}, {os.geteuid()})
            await server.open(None)
            self._master = (asyncio.get_running_loop(), stop := asyncio.Event())
            ready.set()
            await stop.wait()
            await server.close()

        thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
        thread.start()
        assert ready.wait(10)

    def admin(self, target: str, method: str = "GET") -> tuple[int, bytes]:
        """(status, body) from the admin address."""
        address = until(lambda: self.api.request("GET", "/v1/status")["admin"]["address"], "the admin address is bound")
        host, _, port = address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text()

    def events(self, role: str) -> list[dict]:
        return [json.loads(line) for line in self.log(role).splitlines() if line.startswith("{")]

    def event(self, role: str, name: str) -> dict:
        """The first log line of this event, waited for."""
        return until(lambda: next((e for e in self.events(role) if e["event"] == name), None), f"{role} logs {name}")

    def stop(self, role: str) -> int:
        """Tell a child to stop; its exit status."""
        process, channel = self.children.pop(role)
        channel.send({"t": "stop"})
        status = process.wait(10)
        channel.close()
        return status

    def abandon(self, role: str) -> int:
        """Close the master's end of a child's channel; its exit status."""
        process, channel = self.children.pop(role)
        channel.close()
        return process.wait(10)

    def close(self) -> None:
        for role in list(self.children):
            process, channel = self.children.pop(role)
            process.kill()
            process.wait()
            channel.close()
        if self._master:
            loop, stop = self._master
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
        for fd in (*self.fds.values(), *self.wakes.values()):
            os.close(fd)
        shutil.rmtree(self.folder, ignore_errors=True)
