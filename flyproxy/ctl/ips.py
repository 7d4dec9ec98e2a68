"""``flyproxyctl ips``: which public address means which app."""

from __future__ import annotations

import click

from flyproxy.ctl import written
from flyproxy.ctl.cli import Group, Run, app_option, pass_run


@click.group(cls=Group)
def command() -> None:
    """Addresses: an app's own, or shared by every app that has a hostname."""


@command.command("add")
@click.argument("address", metavar="IP")
@app_option(required=True)
@pass_run
def add(run: Run, address: str, app: str) -> None:
    """Give an address to one app."""
    written.put(run, "ips", address, {"app": app}, f"address {address} belongs to app {app}")


@command.command("share")
@click.argument("address", metavar="IP")
@pass_run
def share(run: Run, address: str) -> None:
    """Share an address between all apps that have a hostname."""
    written.put(run, "ips", address, {"shared": True}, f"address {address} is shared")


@command.command("list")
@app_option(text="Only this app's.")
@pass_run
def list_(run: Run, app: str | None) -> None:
    """All addresses, or those of one app."""
    rows = run.nouns.list("ips", app)
    run.output.result(rows, lambda: run.output.table(
        ("ADDRESS", "APP"), [(row["address"], row["app"] or "(shared)") for row in rows],
        "no addresses; add one: flyproxyctl ips add IP -a APP, or flyproxyctl ips share IP"))


@command.command("remove")
@click.argument("address", metavar="IP")
@pass_run
def remove(run: Run, address: str) -> None:
    """Forget an address."""
    written.delete(run, "ips", address, f"address {address} removed")
