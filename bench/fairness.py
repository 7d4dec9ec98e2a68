"""What riders of one transport do to each other: a load alone and beside others, in pairs, one right after the other.

    PYTHONPATH=. python bench/fairness.py [--pairs 7] [--seconds 2] [--contenders 2-flyproxy]

All of it is carried over the same two hops. ``steady``: 16 clients that ask for 13 bytes every 10 ms, p50 and p99 of
their answers. ``bulk``: 8 streams without an end, MB/s. Beside them: ``stalled``, 32 clients that asked for a stream
without an end and read nothing of it, or ``poured``, 4 that read theirs as fast as they can. Only medians over the
pairs mean something: on two cores whoever runs beside takes from the others' cores, too. Nothing is pinned.
The frame scheduler itself is shown exactly, without cores and clocks, in tests/http2.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from contenders import CONTENDERS
from measure import UNITS
from proxies import HERE, Field, Proxy

POUR = b"GET /pour HTTP/1.1\r\nHost: bench.localhost\r\n\r\n"
STALLED, POURED, BULK = 32, 4, 8
WARM_S = 1.0


@contextmanager
def nobody(field: Field, at: int, seconds: int) -> Iterator[None]:
    yield


@contextmanager
def stalled(field: Field, at: int, seconds: int) -> Iterator[None]:
    """Returns when all windows and sockets between are full: nothing more comes."""
    with ExitStack() as stack:
        for _ in range(STALLED):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", at))
            client.sendall(POUR)
            client.settimeout(5)
            try:
                got = client.recv(12)
            except TimeoutError:
                got = b"not at all: those before it hold the transport's window"
            if got != b"HTTP/1.1 200":
                sys.exit(f"bench: a stream without an end was answered {got.decode()}")
        time.sleep(WARM_S)
        yield


@contextmanager
def poured(field: Field, at: int, seconds: int) -> Iterator[None]:
    command = [str(field.work / "sink"), str(at), str(seconds + WARM_S), str(POURED), str(WARM_S), "/pour"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        time.sleep(WARM_S)
        yield
        child.terminate()


BESIDE = {"stalled": stalled, "poured": poured}


def steady(field: Field, at: int, seconds: int) -> dict[str, float]:
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", "-s", str(HERE / "steady.lua"),
               "-H", "Host: bench.localhost", f"http://127.0.0.1:{at}/small"]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Socket errors" in told or "Non-2xx" in told:
        sys.exit(f"bench: the steady load failed:\n{told}")
    found = dict(re.findall(r"^ +(50|99)% +(\S+)$", told, re.MULTILINE))
    return {f"p{share} ms": milliseconds(text) for share, text in found.items()}


def milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def bulk(field: Field, at: int, seconds: int) -> dict[str, float]:
    command = [str(field.work / "sink"), str(at), str(seconds), str(BULK), str(WARM_S), "/pour"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    total, least = map(int, done.stdout.split())
    return {"MB/s": total / seconds / 1e6, "slowest one's part of its share": least * BULK / total}


LOADS: list[tuple[Callable[[Field, int, int], dict[str, float]], str]] = [
    (steady, "stalled"), (steady, "poured"), (bulk, "stalled"),
]  # fmt: skip
Pair = tuple[dict[str, float], dict[str, float]]


def measure(field: Field, proxies: dict[str, Proxy], args: argparse.Namespace) -> dict[tuple[str, int], list[Pair]]:
    """(contender, number of the load) to its pairs: alone, beside."""
    got: dict[tuple[str, int], list[Pair]] = {}
    for _ in range(args.pairs):
        for number, (load, beside) in enumerate(LOADS):
            for name, proxy in proxies.items():
                pair = []
                for others in (nobody, BESIDE[beside]):
                    with others(field, proxy.at.http, args.seconds):
                        pair.append(load(field, proxy.at.http, args.seconds))
                got.setdefault((name, number), []).append((pair[0], pair[1]))
    return got


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--contenders", default="2-flyproxy")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flyproxy-bench-") as work, Field(Path(work), pinned=False) as field:
        got = measure(field, {name: CONTENDERS[name](field) for name in args.contenders.split(",")}, args)
    print("| | load | beside | of it | alone | beside | median of the pairs' ratios (min-max) |")
    print("|---|---|---|---|---|---|---|")
    for (name, number), pairs in sorted(got.items(), key=lambda item: item[0][1]):
        load, beside = LOADS[number]
        for what in pairs[0][0]:
            ratios = [two[what] / one[what] for one, two in pairs]
            alone, together = (median(pair[side][what] for pair in pairs) for side in (0, 1))
            print(f"| {name} | {load.__name__} | {beside} | {what} | {alone:.2f} | {together:.2f} | "
                  f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |")  # fmt: skip


if __name__ == "__main__":
    main()
