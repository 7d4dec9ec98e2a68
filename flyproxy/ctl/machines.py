"""``flyproxyctl machines``: the addresses that serve an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flyproxy.ctl import written
from flyproxy.ctl.cli import Group, Run, app_option, pass_run
from flyproxy.ctl.failure import Usage
from flyproxy.units import split_address

COLUMNS = ("ID", "APP", "ADDRESS", "PORT", "REGION", "HOST", "HEALTH", "CORDONED", "IN FLIGHT")


@click.group(cls=Group)
def command() -> None:
    """Machines: the processes that serve an app."""


@command.command("add")
@click.argument("machine", metavar="[ID]", required=False)
@app_option(required=True)
@click.option("--address", metavar="IP[:PORT]", required=True, help="Where it listens; PORT overrides internal_port.")
@click.option("--region", metavar="R", help="Its region.  [default: this host's]")
@click.option("--host", metavar="H", help="The host it runs on.  [default: this one]")
@pass_run
def add(run: Run, machine: str | None, app: str, address: str, region: str | None, host: str | None) -> None:
    """Add a machine to an app, or change it. Without ID it is made from app and address."""
    try:
        ip, port = split_address(address, 0)
    except ValueError:
        raise Usage("usage", f"'{address}' is no address", "--address",
                    "give an IP with an optional port: 10.0.0.7, 10.0.0.7:8080, [fd00::7]:8080") from None
    from flyproxy.state.commands import machine_id
    name = machine or machine_id(app, ip, port)
    body: dict[str, Any] = {"app": app, "address": ip}
    body |= {key: value for key, value in (("port", port), ("region", region), ("host", host)) if value}
    written.put(run, "machines", name, body, f"machine {name} of app {app} is at {address}")


@command.command("list")
@app_option(text="Only this app's.")
@pass_run
def list_(run: Run, app: str | None) -> None:
    """All machines, or those of one app."""
    machines = run.nouns.list("machines", app)
    run.output.result(machines, lambda: run.output.table(
        COLUMNS, map(_row, machines), "no machines; add one: flyproxyctl machines add -a APP --address IP:PORT"))


def _row(machine: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(machine[key] for key in ("id", "app", "address", "port", "region", "host", "health", "cordoned",
                                          "in_flight"))


@command.command("show")
@click.argument("machine", metavar="ID")
@pass_run
def show(run: Run, machine: str) -> None:
    """One machine."""
    data = run.nouns.show("machines", machine)
    run.output.result(data, lambda: run.output.fields(dict(zip(map(str.lower, COLUMNS), _row(data), strict=True))))


@command.command("remove")
@click.argument("machine", metavar="ID")
@pass_run
def remove(run: Run, machine: str) -> None:
    """Remove a machine: it gets no new requests."""
    written.delete(run, "machines", machine, f"machine {machine} removed")


@command.command("cordon")
@click.argument("machine", metavar="ID")
@pass_run
def cordon(run: Run, machine: str) -> None:
    """Send no new requests to a machine, and keep it."""
    written.put(run, "machines", machine, {"cordoned": True}, f"machine {machine} cordoned")


@command.command("uncordon")
@click.argument("machine", metavar="ID")
@pass_run
def uncordon(run: Run, machine: str) -> None:
    """Send requests to a machine again."""
    written.put(run, "machines", machine, {"cordoned": False}, f"machine {machine} uncordoned")
