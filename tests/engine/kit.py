"""One engine in this process: real segments, a real table, real sockets; VM and client are processes of their own."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from flyproxy._speedups.engine import Engine
from flyproxy._speedups.shm.beat import Root, create_segments
from flyproxy._speedups.shm.table import TableWriter
from flyproxy.settings import Settings

VM = """
    import socket, threading
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    def serve(peer):
        with peer:
            data = b""
            while True:
                more = peer.recv(65536)
                if not more:
                    return
                data += more
                while b"\\r\\n\\r\\n" in data:
                    data = data.partition(b"\\r\\n\\r\\n")[2]
                    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@dataclass
class Running:
    engine: Engine
    root: Root
    port: int


def wait_until(true: Any, seconds: float = 10.0, what: str = "the condition") -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.005)


@contextlib.contextmanager
def child(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *args], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def mapped(address: str) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + ipaddress.ip_address(address).packed


@contextlib.contextmanager
def running(vm_port: int, settings: Settings | None = None) -> Iterator[Running]:
    """An engine that serves http://app.test/ on a free port from the VM at 127.0.0.1:vm_port."""
    settings = settings or Settings()
    fds = create_segments(apps=64, hostnames=64, addresses=64, machines=64, procs=16, slots=1)
    wakes = {0: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)}
    root = Root(fds, writable=True)
    root.claim_proc(0, os.getpid())
    root.set_slot_owner(0, 0)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    writer = TableWriter(fds, wakes, "loc", "host", b"k" * 16)
    writer.reset()
    writer.put_app("app", [service(port)])
    writer.put_hostname("app.test", "app")
    writer.put_machine("m1", "app", mapped("127.0.0.1"), vm_port, "loc", "host", "unknown", False)
    writer.commit(1)
    engine = Engine(0, fds, wakes, msgspec.to_builtins(settings), "host")
    engine.add_listener(1, 0, listener.detach(), port, False, [], False)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield Running(engine, root, port)
    finally:
        engine.stop()
        thread.join(10)
        assert not thread.is_alive()
        for fd in [*fds.values(), *wakes.values()]:
            os.close(fd)


def service(port: int) -> dict[str, Any]:
    public = {
        "start": port, "end": port, "handlers": ["http"], "force_https": False, "pristine": False, "proxy_version": 1,
        "idle_timeout": 0, "headers_read_timeout": 0,
    }
    return {
        "internal_port": 8080, "concurrency": "requests", "soft_limit": 20, "hard_limit": 0, "balance": "least",
        "balance_key": "ip", "half_close": False, "ports": [public],
    }
