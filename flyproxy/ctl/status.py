"""``flyproxyctl status``: the daemon at a glance, as its master tells it; works while the control process is dead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flyproxy.ctl import workers
from flyproxy.ctl.cli import Command, Run, pass_run
from flyproxy.ctl.client import ask_master


@click.command(cls=Command)
@pass_run
def command(run: Run) -> None:
    """Processes, listeners and the table."""
    data = ask_master(run.runtime, "status")
    run.output.result(data, lambda: _show(run, data))


def _show(run: Run, status: Mapping[str, Any]) -> None:
    table, out = status["table"], run.output
    out.line(f"flyproxy {status['version']} on host {status['host']}, region {status['region']}, "
             f"revision {status['revision']}")
    out.line(f"table: generation {table['generation']}, {table['age_seconds']:.1f} s old, "
             f"{table['apps']} apps, {table['machines']} machines")
    if backhaul := status["backhaul"]:
        out.line(f"backhaul: {backhaul['address']}, epoch {backhaul['epoch']}, "
                 f"ports {', '.join(map(str, backhaul['ports'])) or 'none (no worker host)'}"
                 + (f", certificate until {expires}" if (expires := backhaul.get("certificate_expires")) else ""))
    out.line("")
    names = ("master", "state", "control")
    rows = [(name, status[name]["pid"], status[name].get("state")) for name in names]
    out.table(("PROCESS", "PID", "STATE"), rows)
    out.line("")
    workers.show(out, status["workers"])
    out.line("")
    out.table(("LISTENER", "PORT", "SOURCE", "STATE"),
              [(row["address"], row["port"], row["source"], row["state"]) for row in status["listeners"]],
              "no listeners; add [[listeners]] to flyproxy.toml")
