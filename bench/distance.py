"""How much gets through a long way: one stream and a hundred over a way of 100 ms, beside raw TCP over the same way.

    PYTHONPATH=. python bench/distance.py [--delay 0.1] [--rate 125] [--seconds 5] [--rounds 3]
                                          [--contenders haproxy-h2c,flyproxy]

The way is the relay of tests/kit/far.c between the two hops: one way takes the delay, a round trip twice that, and the
line carries the rate (125 MB/s: 1 Gbit/s). Without a rate (0) raw TCP knows no window, because the relay takes
everything at once: what it gets then is this machine's memory, not a way between regions. Raw TCP goes from the backend
through the relay to the reader; a contender's stream is one HTTP answer without an end, carried from hop to hop as the
contender does. Nothing is pinned to a core. Prints a table; exit status 1 when flyproxy gets less than 80 % of raw TCP.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from contenders import H2C, WORKER, haproxy, two_hosts
from proxies import Field, Ports

from tests.kit.far import Far, Link
from tests.kit.region import Detour

STREAMS = (1, 100)
GOAL = 0.80
Way = dict[str, float]
"""What the relay is told: options of tests.kit.far.Far."""
Ways = ExitStack
"""Keeps the relays that stand between hops until the end."""


def raw(field: Field, ways: Ways, way: Way) -> tuple[int, list[str]]:
    """The port to read from, and what the reader asks for."""
    return ways.enter_context(Far(Link(("127.0.0.1", field.vm.tcp)), **way)).address[1], []


def haproxy_h2c(field: Field, ways: Ways, way: Way) -> tuple[int, list[str]]:
    worker = haproxy(field, field.vm, bind=H2C)
    far = ways.enter_context(Far(Link(("127.0.0.1", worker.at.http)), **way))
    return haproxy(field, Ports(far.address[1], worker.at.tcp), server=H2C).at.http, ["/pour"]


def flyproxy(field: Field, ways: Ways, way: Way) -> tuple[int, list[str]]:
    """The edge finds the worker host where the relay is, from its first transport on: the host's record says so."""

    def detour(edge: int) -> None:
        ways.enter_context(Detour(field.work / "state.db", edge, WORKER, **way))

    return two_hosts(field, field.vm, detour).at.http, ["/pour"]


CONTENDERS: dict[str, Callable[[Field, Ways, Way], tuple[int, list[str]]]] = {
    "raw": raw, "haproxy-h2c": haproxy_h2c, "flyproxy": flyproxy,
}  # fmt: skip


def read(field: Field, port: int, streams: int, args: argparse.Namespace, asked: list[str]) -> tuple[float, float]:
    """MB/s of all streams together, and the share of its fair part that the slowest one got."""
    warm = 40 * args.delay + 1  # windows grow by round trips
    command = [str(field.work / "sink"), str(port), str(args.seconds), str(streams), str(warm), *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=warm + args.seconds + 60)
    if done.returncode:
        sys.exit(f"bench: the streams through port {port} failed: {done.stderr.strip()}")
    total, least = map(int, done.stdout.split())
    return total / args.seconds / 1e6, least * streams / total if total else 0.0


def measure(names: list[str], args: argparse.Namespace) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """(contender, streams) to what ``read`` gives in each round; in a round all are read one after the other."""
    got: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with ExitStack() as ways:
        work = ways.enter_context(tempfile.TemporaryDirectory(prefix="flyproxy-bench-"))
        field = ways.enter_context(Field(Path(work), pinned=False))
        way = {"delay": args.delay, "rate": args.rate * 1e6}
        begun = {name: CONTENDERS[name](field, ways, way) for name in names}
        for streams in STREAMS * args.rounds:
            for name, (port, asked) in begun.items():
                got.setdefault((name, streams), []).append(read(field, port, streams, args, asked))
    return got


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds, one way")
    parser.add_argument("--rate", type=float, default=125, help="MB/s of the line, 0: no limit")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join(list(CONTENDERS)[1:]), help="beside raw TCP")
    args = parser.parse_args()
    got = measure(["raw", *(name for name in args.contenders.split(",") if name)], args)
    print("| | streams | MB/s: median (min-max) | of raw TCP | slowest stream's part of its share |")
    print("|---|---|---|---|---|")
    shares = {}
    for (name, streams), runs in got.items():
        rates, least = [rate for rate, _ in runs], median(part for _, part in runs)
        shares[name, streams] = median(one[0] / tcp[0] for one, tcp in zip(runs, got["raw", streams], strict=True))
        print(f"| {name} | {streams} | {median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f}) | "
              f"{shares[name, streams]:.2f} | {least:.2f} |")  # fmt: skip
    return int(any(share < GOAL for (name, _), share in shares.items() if name == "flyproxy"))


if __name__ == "__main__":
    sys.exit(main())
