"""What a proxied request costs: flyproxy, a relay that parses nothing, HAProxy and nginx, interleaved in one run.

    python bench/run.py [--rounds 5] [--seconds 4] [--only small-64,tcp] [--contenders relay,haproxy,nginx]
    python bench/run.py --report bench/results/NAME.json

A complete run (every row, every contender) writes bench/results/NAME.json and docs/benchmarks.md, a partial one only
prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import report
from proxies import HERE, ROOT, Field, Proxy

CONTENDERS = ("relay", "relay-splice", "flyproxy", "haproxy", "nginx")
SPLICE_ROWS = ("1m", "tcp")  # where a splicing relay is the floor; elsewhere the copying one is
ROWS = {
    "small-64": lambda p, f, s: measure.http_load(p.pid, p.http, "/small", 64, s, False),
    "small-256": lambda p, f, s: measure.http_load(p.pid, p.http, "/small", 256, s, False),
    "16k": lambda p, f, s: measure.http_load(p.pid, p.http, "/16k", 64, s, False),
    "1m": lambda p, f, s: measure.http_load(p.pid, p.http, "/1m", 16, s, True),
    "tcp": lambda p, f, s: measure.stream_load(p.pid, p.tcp, f.work / "sink", s),
    "idle": lambda p, f, s: measure.idle_memory(p.pid, p.http),
}


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
        "wrk": output("wrk", "-v"),
        "gcc": output("gcc", "--version"),
        "commit": output("git", "describe", "--always", "--dirty"),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """``rounds`` times every row, every contender one after the other in each: slow drift hits all alike."""
    facts = machine()
    samples: dict[str, dict[str, list[dict[str, float]]]] = {row: {} for row in args.only}
    with tempfile.TemporaryDirectory(prefix="flyproxy-bench-") as work, Field(Path(work)) as field:
        proxies = [field.start(name) for name in args.contenders]

        def take(row: str, proxy: Proxy, turn: int) -> None:
            sample = ROWS[row](proxy, field, args.seconds)
            samples[row].setdefault(proxy.name, []).append(dataclasses.asdict(sample))
            print(f"round {turn + 1}/{args.rounds} {row:9} {proxy.name:12} {sample.cost:10.3f}", flush=True)

        for turn in range(args.rounds):
            # Idle memory once and first: a heap that has seen load takes new connections from its free lists.
            for row in sorted(args.only, key=lambda row: row != "idle"):
                for proxy in proxies:
                    if not (proxy.name == "relay-splice" and row not in SPLICE_ROWS) and not (row == "idle" and turn):
                        take(row, proxy, turn)
    command = "python bench/run.py " + " ".join(sys.argv[1:])
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command.strip(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "machine": facts,
        "samples": samples,
    }


def names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        asked = text.split(",") if text else list(known)
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return asked

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", type=names(tuple(ROWS)), default=list(ROWS), help=f"rows, of {', '.join(ROWS)}")
    parser.add_argument("--contenders", type=names(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--report", type=Path, help="write docs/benchmarks.md anew from these results")
    args = parser.parse_args()
    if args.report:
        report.write(json.loads(args.report.read_text()), args.report)
        return
    if (os.cpu_count() or 1) < 2:
        sys.exit("bench: two cores are needed, one for the proxy and one for the load")
    result = run(args)
    print("\n" + report.tables(result))
    if set(args.only) == set(ROWS) and set(args.contenders) == set(CONTENDERS):
        path = HERE / "results" / (result["when"][:16].replace(":", "") + ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        report.write(result, path)
        print(f"written: {path.relative_to(ROOT)}, docs/benchmarks.md, docs/benchmarks.svg")


if __name__ == "__main__":
    main()
