"""Shared segments with a writer and readers, as small as a test wants them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from flyproxy._speedups._testing_hosts import Mesh
from flyproxy._speedups._testing_shm import Worker
from flyproxy._speedups.shm import beat
from flyproxy._speedups.shm.closeness import Closeness
from flyproxy._speedups.shm.counters import CounterReader
from flyproxy._speedups.shm.logring import LogReader
from flyproxy._speedups.shm.table import TableReader, TableWriter

KEY = b"0123456789abcdef"


def v4(text: str) -> bytes:
    """16 bytes, v4-mapped."""
    return bytes(10) + b"\xff\xff" + socket.inet_aton(text)


def port(start: int = 80, *handlers: str, end: int = 0, **options: Any) -> dict[str, Any]:
    return {"start": start, "end": end or start, "handlers": list(handlers), **options}


def service(
    *ports: dict[str, Any], internal_port: int = 8080, soft: int = 0, hard: int = 0, **options: Any
) -> dict[str, Any]:
    return {
        "internal_port": internal_port,
        "concurrency": "requests",
        "soft_limit": soft,
        "hard_limit": hard,
        "ports": list(ports) or [port(80, "http")],
        **options,
    }


class World:
    """Segments, the master's root, a writer that has been reset, and workers on demand."""

    def __init__(
        self,
        apps: int = 16,
        hostnames: int = 32,
        addresses: int = 8,
        machines: int = 64,
        procs: int = 16,
        *,
        mesh: bool = False,
    ) -> None:
        self.mesh = mesh
        self.sizes = {
            "apps": apps,
            "hostnames": hostnames,
            "addresses": addresses,
            "machines": machines,
            "procs": procs,
            "slots": 4,
        }
        self.fds = beat.create_segments(**self.sizes)
        self.wakes: dict[int, int] = {}
        self.root = beat.Root(self.fds, True)
        self.revision = 0
        self.writer = self.new_writer()

    def new_writer(self, region: str = "yyz") -> TableWriter:
        writer = TableWriter(self.fds, self.wakes, region, "host1", KEY, mesh=self.mesh)
        writer.reset()
        return writer

    def worker(self, proc: int = 0, seed: int = 1) -> Worker:
        if proc not in self.root.live():
            self.root.claim_proc(proc, os.getpid())
        return Worker(self.fds, proc, self.wakes, seed)

    def reader(self) -> TableReader:
        return TableReader(self.fds)

    def peers(self) -> Mesh:
        """What the mesh needs to know, as an engine reads it."""
        return Mesh(self.fds)

    def closeness(self) -> Closeness:
        return Closeness(self.fds, True)

    def counters(self) -> CounterReader:
        return CounterReader(self.fds)

    def logs(self) -> LogReader:
        return LogReader(self.fds)

    def app(self, name: str, *services: dict[str, Any], hosts: Iterable[str] = ()) -> None:
        self.writer.put_app(name, list(services) or [service()])
        for host in hosts:
            self.writer.put_hostname(host, name)

    def machine(
        self,
        id: str,
        app: str,
        region: str = "yyz",
        health: str = "passing",
        *,
        cordoned: bool = False,
        port: int = 8080,
        address: bytes = v4("10.0.0.1"),
        host: str = "host1",
    ) -> None:
        self.writer.put_machine(id, app, address, port, region, host, health, cordoned)

    def machines(self, app: str, count: int, region: str = "yyz", prefix: str = "m") -> None:
        for i in range(count):
            self.machine(f"{prefix}{i}", app, region)

    def host(
        self, id: str, region: str = "ams", *, ports: Iterable[int] = (7001,), epoch: int = 1, roles: Iterable[str] = ()
    ) -> None:
        self.writer.put_host(id, region, v4("10.9.0.1"), list(ports), epoch, list(roles))

    def commit(self) -> None:
        self.revision += 1
        self.writer.commit(self.revision)

    def close(self) -> None:
        for fd in (*self.fds.values(), *self.wakes.values()):
            os.close(fd)
