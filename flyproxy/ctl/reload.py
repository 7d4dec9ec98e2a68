"""``flyproxyctl reload``: the settings again, and new workers where asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flyproxy.ctl.cli import Command, Run, pass_run
from flyproxy.ctl.client import ask_master
from flyproxy.ctl.output import Output

READY_WITHIN = 120.0        # seconds: more than the master gives a new generation to get ready
DRAINED_WITHIN = 86400.0    # a drain ends at workers.drain_timeout, which may be as long as a day


@click.command(cls=Command)
@click.option("--workers", is_flag=True, help="Replace the workers too.")
@click.option("--wait-drained", is_flag=True, help="Return only when the old workers are gone.")
@pass_run
def command(run: Run, workers: bool, wait_drained: bool) -> None:
    """Read the settings again. A bad file, or workers that do not get ready, change nothing."""
    data = ask_master(run.runtime, "reload", DRAINED_WITHIN if wait_drained else READY_WITHIN,
                      workers=workers, wait_drained=wait_drained) or {}
    run.output.result(data, lambda: _show(run.output, data))


def _show(output: Output, data: Mapping[str, Any]) -> None:
    changed = data.get("changed") or ()
    output.line(f"reloaded; changed: {', '.join(changed)}" if changed else "reloaded; no setting changed")
    if restart := data.get("restart"):
        output.line(f"kept until flyproxy is restarted: {', '.join(restart)}")
    if (generation := data.get("generation")) is not None:
        output.line(f"workers of generation {generation} are serving")
