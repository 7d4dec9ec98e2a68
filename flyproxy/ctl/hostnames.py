"""``flyproxyctl hostnames``: which Host header means which app."""

from __future__ import annotations

import click

from flyproxy.ctl import written
from flyproxy.ctl.cli import Group, Run, app_option, pass_run


@click.group(cls=Group)
def command() -> None:
    """Hostnames: exact (www.example.com) or wildcard (*.example.com)."""


@command.command("add")
@click.argument("hostname", metavar="HOST")
@app_option(required=True)
@pass_run
def add(run: Run, hostname: str, app: str) -> None:
    """Serve HOST from an app."""
    written.put(run, "hostnames", hostname, {"app": app}, f"host {hostname} is served by app {app}")


@command.command("list")
@app_option(text="Only this app's.")
@pass_run
def list_(run: Run, app: str | None) -> None:
    """All hostnames, or those of one app."""
    rows = run.nouns.list("hostnames", app)
    run.output.result(rows, lambda: run.output.table(
        ("HOST", "APP"), [(row["hostname"], row["app"]) for row in rows],
        "no hostnames; add one: flyproxyctl hostnames add HOST -a APP"))


@command.command("remove")
@click.argument("hostname", metavar="HOST")
@pass_run
def remove(run: Run, hostname: str) -> None:
    """Serve HOST no more."""
    written.delete(run, "hostnames", hostname, f"host {hostname} removed")
