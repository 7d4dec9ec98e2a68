"""Runs all tests but those that are marked long, in parts, and says at the end how each part went. Every part runs,
whatever became of the one before; the exit status is 0 when all passed.

python scripts/run_tests.py [--jobs N] [PART ...]        parts: hops tls together alone; default: all of them
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
JOBS = (os.cpu_count() or 1) + 2  # the tests wait as much as they work
ONE_HOST = (  # the longest first: nobody waits for the last one then
    "timeouts", "engine_edges", "queue", "limits", "proxy_protocol", "vm_faults", "upgrade", "bodies", "http", "errors",
    "tcp",
)  # fmt: skip
IN_TLS = ("proxy_protocol", "vm_faults", "upgrade", "bodies", "http", "errors", "tcp")


class Part(NamedTuple):
    """Some of the tests. ``shared``: several processes take them, a file at a time."""

    what: str
    marks: str
    shared: bool = True
    paths: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def hops(what: str, names: tuple[str, ...], mode: str) -> Part:
    """The tests of one host, carried to another; ``mode`` is what tests.kit.twohops makes of it."""
    paths = tuple(f"tests/integration/test_{name}.py" for name in names)
    return Part(what, "not long and not one_host", paths=paths, env=(("FLYPROXY_TEST_HOPS", mode),))


PARTS = {
    "hops": hops("what tests say of one host, with the machines on another", ONE_HOST, "2"),
    "tls": hops("some of them, with TLS between the hosts", IN_TLS, "tls"),
    "together": Part("everything else, several files at a time", "not long and not alone"),
    "alone": Part("what measures, alone on the machine", "not long and alone", shared=False),
}  # fmt: skip


class Outcome(NamedTuple):
    """``status`` is pytest's own: an error outside of any test is in no count."""

    tests: int
    failed: int
    status: int
    seconds: float


def run(part: Part, jobs: int) -> Outcome:
    print(f"== {time.strftime('%T')} {part.what}", flush=True)
    spread = ["-n", str(jobs), "--dist", "loadfile", "--no-loadscope-reorder"] if part.shared else []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fpt-") as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", part.marks, f"--junitxml={report}", *spread, *part.paths]
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, **dict(part.env)}).returncode
        suite = ElementTree.parse(report).find("testsuite") if report.exists() else None
    counts = {key: int(value) for key, value in suite.items() if value.isdigit()} if suite is not None else {}
    failed = counts.get("failures", 0) + counts.get("errors", 0)
    return Outcome(counts.get("tests", 0), failed, status, time.monotonic() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"processes; default {JOBS}, two more than cores")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    outcomes = {name: run(PARTS[name], options.jobs) for name in options.parts or PARTS}
    print()
    for name, one in outcomes.items():
        verdict = f"FAILED, exit status {one.status}" if one.status else "ok"
        print(f"{name:<10}{one.tests:>6} tests  {one.failed:>3} failed {one.seconds:>6.0f} s  {verdict}")
    tests, failed, status, seconds = (sum(column) for column in zip(*outcomes.values(), strict=True))
    print(f"{f'{failed} failed, ' if status else ''}{tests - failed} passed in {seconds:.0f} s")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
