"""``flyproxyctl top``: what each app does now: rates between two looks at the metrics page."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import click

from flyproxy.ctl.cli import Command, Run, pass_run
from flyproxy.ctl.client import Api

INTERVAL = 1.0
SAMPLE = re.compile(
    r'(fly_edge_(?:http_responses_count|tcp_connects_count|tcp_disconnects_count|data_in|data_out))'
    r'\{([^}]*)\} ([0-9.e+]+)')
LABEL = re.compile(r'(\w+)="([^"]*)"')
COLUMNS = ("APP", "REQUESTS/S", "5XX/S", "CONNECTIONS", "IN B/S", "OUT B/S")


class Totals(NamedTuple):
    """One app's counters since its start."""

    requests: float = 0
    errors: float = 0
    open: float = 0
    data_in: float = 0
    data_out: float = 0


def totals(page: str) -> dict[str, Totals]:
    """The counters of each app on a metrics page."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, labels, value in SAMPLE.findall(page):
        pairs = dict(LABEL.findall(labels))
        app, amount = sums[pairs.get("app", "")], float(value)
        if name.endswith("responses_count"):
            app["requests"] += amount
            app["errors"] += amount if pairs.get("status", "").startswith("5") else 0
        elif name.endswith("connects_count"):
            app["open"] += -amount if "disconnects" in name else amount
        else:
            app[name.removeprefix("fly_edge_")] += amount
    return {app: Totals(**values) for app, values in sums.items()}


def rates(before: Mapping[str, Totals], after: Mapping[str, Totals], seconds: float) -> list[dict[str, object]]:
    """One row an app, the busiest first; connections are a count, the rest per second."""
    rows: list[dict[str, object]] = []
    for app, now in sorted(after.items(), key=lambda item: item[0]):
        then = before.get(app, Totals())
        per_second = [max(new - old, 0) / seconds for new, old in zip(now, then, strict=True)]
        rows.append({"app": app, "requests_per_second": round(per_second[0], 1),
                     "errors_per_second": round(per_second[1], 1), "connections": int(max(now.open, 0)),
                     "in_bytes_per_second": int(per_second[3]), "out_bytes_per_second": int(per_second[4])})
    return sorted(rows, key=lambda row: -float(str(row["requests_per_second"])))


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Look once (for a second), print, and end.")
@pass_run
def command(run: Run, once: bool) -> None:
    """Requests, errors, connections and bytes of each app, refreshed every second."""
    api = Api(run.runtime)
    before, at = totals(api.text("/metrics")), time.monotonic()
    while True:
        time.sleep(INTERVAL)
        after, now = totals(api.text("/metrics")), time.monotonic()
        rows = rates(before, after, now - at)
        if not once and not run.output.as_json:
            click.clear()
        run.output.result(rows, lambda rows=rows: run.output.table(  # type: ignore[misc]
            COLUMNS, [tuple(row.values()) for row in rows], "no traffic yet"))
        if once:
            return
        before, at = after, now
