"""What is measured, and how: CPU time and memory of a process tree from /proc, load from wrk, sink and sockets."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LOAD_CORE = 1  # client and backend share it; the proxies have core 0
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
IDLE_WARM, IDLE_MORE = 200, 4000  # connections: heaps settle with the first, the second are counted


class LoadError(RuntimeError):
    """The load met an error: a number measured under errors means nothing."""


@dataclass(frozen=True)
class Sample:
    """One run of one proxy: ``cost`` in the scenario's unit, ``own`` the same for the workers alone."""

    cost: float
    own: float
    user_share: float = 0.0
    per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def tree(root: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield root
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def is_worker(pid: int) -> bool:
    title = Path(f"/proc/{pid}/cmdline").read_bytes()
    return not title.startswith(b"flyproxy:") or title.startswith(b"flyproxy: worker")


@dataclass(frozen=True)
class Cpu:
    """CPU seconds so far: all processes, the workers among them, and the user part of all."""

    total: float
    own: float
    user: float


def family(roots: Sequence[int]) -> list[int]:
    """All processes of a contender: one tree for each hop."""
    return [pid for root in roots for pid in tree(root)]


def cpu(roots: Sequence[int]) -> Cpu:
    """Nanosecond accounting of every thread (schedstat); softirq work done in a thread's time is part of it."""
    total = own = user = 0.0
    for pid in family(roots):
        spent = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
        total += spent / 1e9
        if is_worker(pid):
            own += spent / 1e9
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user += int(fields[11]) / os.sysconf("SC_CLK_TCK")
    return Cpu(total, own, user)


def anonymous(roots: Sequence[int]) -> int:
    """Resident anonymous bytes of the trees: heaps and stacks, not the shared tables, whose size is fixed."""

    def of(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE).group(1)) << 10  # type: ignore[union-attr]

    return sum(of(pid) for pid in family(roots))


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def http_load(pids: Sequence[int], port: int, path: str, connections: int, seconds: float, per_gb: bool) -> Sample:
    """wrk for ``seconds``; cost is CPU microseconds a request, or CPU seconds a gigabyte of answers."""
    command = [
        "taskset",
        "-c",
        str(LOAD_CORE),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "-H",
        "Host: bench.localhost",
        f"http://127.0.0.1:{port}{path}",
    ]
    before = cpu(pids)
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    after = cpu(pids)
    if "Socket errors" in out or "Non-2xx" in out:
        raise LoadError(f"wrk met errors on port {port}:\n{out}")
    requests = int(re.search(r"(\d+) requests in", out).group(1))  # type: ignore[union-attr]
    if not requests:
        raise LoadError(f"no request was answered on port {port}:\n{out}")
    size = {"/small": 13, "/16k": 1 << 14, "/1m": 1 << 20}[path]
    scale = 1e9 / (requests * size) if per_gb else 1e6 / requests
    quantiles = {q: _milliseconds(t) for q, t in re.findall(r"^\s+(50|99)%\s+(\S+)$", out, re.M)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    spent = after.total - before.total
    return Sample(
        spent * scale,
        (after.own - before.own) * scale,
        (after.user - before.user) / spent,
        float(rate.group(1)) if rate else 0.0,
        quantiles.get("50", 0.0),
        quantiles.get("99", 0.0),
    )


def stream_load(pids: Sequence[int], port: int, sink: Path, seconds: float) -> Sample:
    """One bulk TCP stream; cost is CPU seconds a gigabyte."""
    before = cpu(pids)
    out = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), str(sink), str(port), str(seconds)],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    after = cpu(pids)
    if out.returncode:
        raise LoadError(f"the stream through port {port} failed: {out.stderr.strip()}")
    gigabytes = int(out.stdout.split()[0]) / 1e9
    spent = after.total - before.total
    return Sample(
        spent / gigabytes, (after.own - before.own) / gigabytes, (after.user - before.user) / spent, gigabytes / seconds
    )


# What is sent on a connection, and how the answer ends after which it idles.
KEPT = (b"GET /small HTTP/1.1\r\nHost: bench.localhost\r\n\r\n", b"x" * 13)
UNANSWERED = (b"GET /hang HTTP/1.1\r\nHost: bench.localhost\r\n\r\n", b"\r\n\r\n")
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: bench.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"\r\n\r\n",
)
Idle = tuple[bytes, bytes]


def _begin(port: int, kind: Idle, count: int) -> list[socket.socket]:
    """Connections that idle. Asked for in batches: a proxy may wait a moment for the body before it sends a head."""
    held: list[socket.socket] = []
    while len(held) < count:
        batch = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(IDLE_WARM)]
        for conn in batch:
            conn.sendall(kind[0])
        for conn in batch:
            _await(conn, kind)
        held += batch
    return held


def _await(conn: socket.socket, kind: Idle) -> None:
    seen = b""
    while not seen.endswith(kind[1]):
        got = conn.recv(4096)
        if not got:
            raise LoadError(f"a connection that should idle was closed: {seen!r}")
        seen += got
    if not seen.startswith(b"HTTP/1.1 101" if kind is WEBSOCKET else b"HTTP/1.1 200"):
        raise LoadError(f"that is not the answer to a connection that idles: {seen!r}")


def idle_memory(pids: Sequence[int], port: int, kind: Idle) -> Sample:
    """Resident anonymous bytes that one more connection takes which idles in this way."""
    held = _begin(port, kind, IDLE_WARM)
    before = anonymous(pids)
    held += _begin(port, kind, IDLE_MORE)
    after = anonymous(pids)
    for conn in held:
        conn.close()
    time.sleep(0.5)  # let the proxy see the ends before the next one is measured
    each = (after - before) / IDLE_MORE
    return Sample(each, each)
