"""How long a change takes from its commit in the store until every worker has read it; a new port until it serves.

    python -m bench.propagation [--changes 2000] [--rate 200] [--trials 20]
    python -m bench.propagation --report        writes docs/propagation.md anew from the last results

A real daemon with two workers and 1 000 apps of 10 machines; the changes are committed by another process
(bench/changes.py) at fixed times, also while /metrics is read in a loop and while requests flow. Writes
bench/results/propagation.json and docs/propagation.md; exit status 1 when a bound was missed. It needs a machine that
does nothing else: who waits for a core is late, whatever the program.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bench.changes import TimedStore
from flyproxy.state import commands
from tests.kit import world
from tests.kit.bulk import View, write
from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon, free_port
from tests.kit.farm import Farm

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "bench/results/propagation.json", ROOT / "docs/propagation.md"
APPS = 1000
LOOK_S = 0.0001             # between two looks at the workers' revisions
CHANGE_P99_MS, PORT_MAX_MS = 50.0, 500.0
Json = dict[str, Any]


class Watch:
    """Notes when the table, and the last of the workers, shows each revision: (ns, revision), ascending.

    ``blind``: the longest time, in ns, between two looks: on a busy machine this process waits too, and what it saw
    late counts as late."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.blind = 0
        self.table: list[tuple[int, int]] = []
        self.workers: list[tuple[int, int]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        now = time.monotonic_ns()
        while not self._done.wait(LOOK_S):
            # Revisions first, the clock after: a moment is never taken for an earlier one.
            workers, table, before = self.view.revision(), self.view.table.revision, now
            now = time.monotonic_ns()
            self.blind = max(self.blind, now - before)
            for seen, revision in ((self.workers, workers), (self.table, table)):
                if not seen or revision > seen[-1][1]:
                    seen.append((now, revision))


def delays(watched: list[tuple[int, int]], revisions: list[int], since: list[int]) -> list[float]:
    """Milliseconds from ``since`` until each revision was there."""
    times, reached = zip(*watched, strict=True)
    return [(times[bisect_left(reached, revision)] - at) / 1e6 for revision, at in zip(revisions, since, strict=True)]


def percentiles(values: list[float]) -> dict[str, float]:
    """In ms."""
    ordered = sorted(values)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * at))], 3) for name, at in shares.items()}


# -- what else goes on meanwhile


@contextmanager
def nothing(daemon: ProxyDaemon) -> Iterator[Json]:
    yield {}


@contextmanager
def scraping(daemon: ProxyDaemon) -> Iterator[Json]:
    """Reads the metrics page without a pause."""
    done, took, sizes = threading.Event(), [], []

    def run() -> None:
        while not done.is_set():
            begun = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{daemon.admin_port}/metrics", timeout=60) as page:
                sizes.append(len(page.read()))
            took.append((time.monotonic() - begun) * 1e3)

    thread = threading.Thread(target=run)
    thread.start()
    noted: Json = {}
    try:
        yield noted
    finally:
        done.set()
        thread.join()
        noted.update(scrapes=len(took), page_bytes=max(sizes), scrape_ms=percentiles(took))


@contextmanager
def requests(daemon: ProxyDaemon, *options: str) -> Iterator[Json]:
    """wrk with these options."""
    command = ["wrk", "-d600s", *options, "-H", f"Host: {world.host(0)}", f"http://127.0.0.1:{daemon.port()}/"]
    begun, before = time.monotonic(), daemon.metric("flyproxy_requests_total")
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    noted: Json = {}
    try:
        yield noted
    finally:
        child.terminate()
        child.wait()
        count = daemon.metric("flyproxy_requests_total") - before
        noted.update(requests_per_second=round(count / (time.monotonic() - begun)))


def traffic(daemon: ProxyDaemon) -> AbstractContextManager[Json]:
    """32 connections and a pause before each request: about 3 000 requests a second."""
    return requests(daemon, "-t1", "-c32", "-s", str(ROOT / "bench/steady.lua"))


def saturated(daemon: ProxyDaemon) -> AbstractContextManager[Json]:
    """256 connections without a pause: every core is busy, every process waits for one."""
    return requests(daemon, "-t2", "-c256")


PHASES = {"quiet": nothing, "scraping": scraping, "traffic": traffic, "saturated": saturated}


# -- measuring


def changes(daemon: ProxyDaemon, view: View, farm: Farm, args: argparse.Namespace, first: int, phase: str) -> Json:
    """One round of changes."""
    numbers = (args.changes, args.rate, APPS, farm.port, first)
    command = [sys.executable, "-m", "bench.changes", str(daemon.dir / "state/state.db"), *map(str, numbers)]
    load = os.getloadavg()[0]
    with PHASES[phase](daemon) as noted, Watch(view) as watch:
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout)
        view.wait(max(told["revision"]))
        time.sleep(10 * LOOK_S)
    reached = delays(watch.workers, told["revision"], told["committed"])
    return {
        "changes": len(reached), "per_second": args.rate,
        "load_average": round(load, 2), "blind_ms": round(watch.blind / 1e6, 2),
        "commit_to_workers_ms": percentiles(reached),
        "commit_to_table_ms": percentiles(delays(watch.table, told["revision"], told["committed"])),
        "due_to_workers_ms": percentiles(delays(watch.workers, told["revision"], told["due"])), **noted,
    }  # fmt: skip


async def ports(daemon: ProxyDaemon, trials: int) -> Json:
    """From the commit of an app with a new port until a request to that port is answered by one of its machines."""
    store, took = TimedStore(str(daemon.dir / "state/state.db")), []
    load = os.getloadavg()[0]
    for n in range(trials):
        port = free_port()
        app = world.app(world.name(n), world.service(), world.service(port))
        revision = await commands.apply_app(store, app)
        while not served(port, n):
            await asyncio.sleep(0.0005)
        took.append((time.monotonic_ns() - store.committed[revision]) / 1e6)
    await store.close()
    return {"trials": trials, "load_average": round(load, 2), "commit_to_served_ms": percentiles(took)}


def served(port: int, n: int) -> bool:
    try:
        with RawClient(("127.0.0.1", port)) as client:
            answer = client.get(host=world.host(n))
    except OSError:
        return False
    return answer.status == 200 and answer.body.decode().startswith(world.network(n))


def measure(args: argparse.Namespace) -> Json:
    more = len(PHASES) * args.changes
    table = {"apps": APPS, "hostnames": APPS + more, "addresses": 10, "machines": APPS * world.MACHINES}
    with Farm() as farm:
        daemon = ProxyDaemon(workers={"count": 2}, app_ports=["1024-65535"], table=table).start()
        try:
            assert daemon.process is not None
            view = View(daemon.process.pid)
            view.wait(write(daemon.dir / "state/state.db", world.whole(APPS, farm.port)), 30)
            with daemon.client() as client:  # a series of an app exists from its first request on
                assert all(client.get(host=world.host(n)).status == 200 for n in range(APPS))
            result: Json = {"phases": {}}
            for number, phase in enumerate(PHASES):
                result["phases"][phase] = changes(daemon, view, farm, args, number * args.changes, phase)
                print(phase, json.dumps(result["phases"][phase]), flush=True)
            result["new_port"] = asyncio.run(ports(daemon, args.trials))
            print("new port", json.dumps(result["new_port"]), flush=True)
        except BaseException:
            daemon.kill()
            raise
        daemon.stop()
    return result


# -- telling


def facts() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores", "kernel": platform.release(), "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version, "commit": commit.stdout.strip(),
    }  # fmt: skip


def missed(result: Json) -> list[str]:
    """The bounds that do not hold."""
    found = [
        f"{phase}: p99 {one['commit_to_workers_ms']['p99']} ms is not under {CHANGE_P99_MS:g} ms"
        for phase, one in result["phases"].items() if one["commit_to_workers_ms"]["p99"] >= CHANGE_P99_MS
    ]  # fmt: skip
    worst = result["new_port"]["commit_to_served_ms"]["max"]
    return found + ([f"new port: {worst} ms is not under {PORT_MAX_MS:g} ms"] if worst >= PORT_MAX_MS else [])


def row(name: str, load: float, values: dict[str, float]) -> str:
    shown = " | ".join(f"{values[key]:.1f}" for key in ("p50", "p90", "p99", "max"))
    return f"| {name} | {load:.1f} | {shown} |"


def page(result: Json) -> str:
    names = {
        "commit_to_workers_ms": "commit → every worker's engine", "commit_to_table_ms": "commit → table",
        "due_to_workers_ms": "due → every worker (write, fsync and queue included)",
    }  # fmt: skip
    rows = [
        row(f"{phase}: {title}", one["load_average"], one[key])
        for phase, one in result["phases"].items() for key, title in names.items()
    ]  # fmt: skip
    port, scraped, phases = result["new_port"], result["phases"]["scraping"], result["phases"]
    rows.append(row("new port: commit → served", port["load_average"], port["commit_to_served_ms"]))
    quiet = phases["quiet"]
    held = f"all hold: p99 of a change under {CHANGE_P99_MS:g} ms, a new port under {PORT_MAX_MS:g} ms"
    machine = " · ".join(f"{key} {value}" for key, value in result["machine"].items())
    blind = ", ".join(f"{phase} {one['blind_ms']:.1f}" for phase, one in phases.items())
    pages = f"{scraped['scrapes']} times, {scraped['page_bytes'] / 1e6:.1f} MB with series of all {APPS} apps"
    return f"""# How fast a change is everywhere

Written by `make bench-propagation` from `bench/results/propagation.json`; do not edit by hand.

{result["when"]}: `{result["command"]}`

A real daemon with two workers serves {APPS} apps with {APPS * world.MACHINES} machines from one table. Another process
commits {quiet["changes"]} changes for each of {", ".join(phases)}, {quiet["per_second"]} a second by a fixed schedule,
whatever becomes of them (`bench/changes.py`): host names added, machines cordoned and moved, apps changed. A
change has arrived when the heartbeat of *every* worker shows its revision in shared memory. One monotonic clock, read
every {LOOK_S * 1e3:g} ms. Load is the machine's load average when the row began: other work on the same cores.

| milliseconds | load | p50 | p90 | p99 | max |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Bounds: {"; ".join(missed(result)) or held}.

- *scraping*: `/metrics` is read without a pause meanwhile: {pages},
  {scraped["scrape_ms"]["p50"]:.0f} ms each (p99 {scraped["scrape_ms"]["p99"]:.0f} ms).
- *traffic*: wrk with 32 connections meanwhile, {phases["traffic"]["requests_per_second"]} requests a second: a
  steady load.
- *saturated*: wrk with 256 connections and no pause, {phases["saturated"]["requests_per_second"]} requests a second:
  every process waits for a core, the observer and the one that makes the changes too.
- *new port*: {port["trials"]} times an app got a port that nobody had; served: one of its machines answered there.
- The observer is a process like others and was itself kept waiting, in the worst case (ms): {blind}.
  What it saw late counts as late.

{machine}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=2000, help="in each of the rows")
    parser.add_argument("--rate", type=int, default=200, help="changes a second")
    parser.add_argument("--trials", type=int, default=20, help="new ports")
    parser.add_argument("--report", action="store_true", help="only write docs/propagation.md, from the last results")
    args = parser.parse_args()
    if args.report:
        DOCS.write_text(page(json.loads(RESULTS.read_text())))
        return
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = " ".join(["python -m bench.propagation", *sys.argv[1:]])
    result = {"when": when, "command": command, "machine": facts(), **measure(args)}
    print(page(result))
    if args.changes >= 2000 and args.trials >= 20:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        DOCS.write_text(page(result))
    if problems := missed(result):
        sys.exit("missed: " + "; ".join(problems))


if __name__ == "__main__":
    main()
