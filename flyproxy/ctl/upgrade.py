"""``flyproxyctl upgrade``: the running daemon becomes the flyproxy that is installed now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flyproxy.ctl.cli import Command, Run, pass_run
from flyproxy.ctl.client import ask_master
from flyproxy.ctl.output import Output
from flyproxy.ctl.reload import DRAINED_WITHIN

ANEW_WITHIN = 900.0     # seconds: a large table is built before new workers get ready, where the sizes have changed


@click.command(cls=Command)
@click.option("--wait-drained", is_flag=True, help="Return only when the old workers are gone.")
@pass_run
def command(run: Run, wait_drained: bool) -> None:
    """Become the flyproxy that is installed now, with the same pid and without losing a connection.

    It is tried first: one that does not work, or settings that it refuses, change nothing.
    """
    limit = DRAINED_WITHIN if wait_drained else ANEW_WITHIN
    data = ask_master(run.runtime, "upgrade", limit, wait_drained=wait_drained) or {}
    run.output.result(data, lambda: _show(run.output, data))


def _show(output: Output, data: Mapping[str, Any]) -> None:
    output.line(f"upgraded from {data['from']} to {data['to']}")
    if restart := data["restart"]:
        output.line(f"kept until flyproxy is restarted: {', '.join(restart)}")
    output.line(f"workers of generation {data['generation']} are serving")
    if data["segments"] == "new":
        output.line("shared memory was made anew: counters begin at zero")
