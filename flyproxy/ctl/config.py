"""``flyproxyctl config``: the settings that hold, and where each comes from."""

from __future__ import annotations

import json
from typing import Any

import click

from flyproxy.ctl.cli import Group, Run, pass_run
from flyproxy.ctl.client import Api
from flyproxy.ctl.failure import NotRunning, Usage


@click.group(cls=Group)
def command() -> None:
    """The daemon's settings."""


@command.command("show")
@click.option("--effective", is_flag=True, help="Every key with the value that holds, defaults too.")
@click.option("--origins", is_flag=True, help="And where each value comes from.")
@pass_run
def show(run: Run, effective: bool, origins: bool) -> None:
    """The settings, one 'key = value' a line.

    A running daemon is asked for what it holds; otherwise (and for --origins) the file and the environment are read.
    """
    if not effective:
        raise Usage("usage", "say which settings: --effective", "flyproxyctl config show",
                    "flyproxyctl config show --effective [--origins]")
    from flyproxy.settings import flat, from_json
    if origins:
        values, sources = flat(run.settings), run.loaded.origins
    else:
        running = _running(run)
        values = flat(run.settings if running is None else from_json(json.dumps(running).encode()))
        sources = {}
    data = {key: {"value": value, "origin": sources[key]} if origins else value for key, value in values.items()}
    run.output.result(data, lambda: _show(run, values, sources))


def _running(run: Run) -> Any:
    """The settings that the daemon runs with; None when none runs or nobody should be asked."""
    if run.offline:
        return None
    try:
        return Api(run.runtime).request("GET", "/v1/config")
    except NotRunning:
        return None


def _show(run: Run, values: dict[str, Any], sources: dict[str, str]) -> None:
    width = max(len(f"{key} = {json.dumps(value)}") for key, value in values.items()) if sources else 0
    for key, value in values.items():
        text = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        run.output.line(f"{text:<{min(width, 60)}}  # {sources[key]}" if sources else text)
