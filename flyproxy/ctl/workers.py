"""``flyproxyctl workers``: the processes that carry traffic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from flyproxy.ctl.cli import Command, Run, pass_run
from flyproxy.ctl.client import ask_master
from flyproxy.ctl.output import Output


@click.command(cls=Command)
@pass_run
def command(run: Run) -> None:
    """The workers: state, slots and connections."""
    data = ask_master(run.runtime, "workers")
    run.output.result(data, lambda: show(run.output, data))


def show(output: Output, workers: Iterable[Mapping[str, Any]]) -> None:
    output.table(
        ("WORKER", "PID", "GENERATION", "STATE", "SLOTS", "CONNECTIONS"),
        [(row["index"], row["pid"], row["generation"], row["state"], ",".join(map(str, row["slots"])),
          row["connections"]) for row in workers],
        "no workers")
