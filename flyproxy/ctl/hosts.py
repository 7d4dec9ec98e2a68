"""``flyproxyctl hosts``: the hosts of the mesh, and how far each is from this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flyproxy.ctl.cli import Group, Run, pass_run
from flyproxy.ctl.written import told

COLUMNS = ("ID", "REGION", "ADDRESS", "PORTS", "ROLES", "TLS", "STATE", "RTT MS", "VIA")


@click.group(cls=Group)
def command() -> None:
    """Hosts of the mesh, as each tells of itself."""


@command.command("list")
@pass_run
def list_(run: Run) -> None:
    """All hosts, and how far each is from this one."""
    hosts = run.nouns.list("hosts")
    run.output.result(hosts, lambda: run.output.table(
        COLUMNS, map(_row, hosts), "no hosts; each with [backhaul] address in its flyproxy.toml writes itself here"))


def _row(host: Mapping[str, Any]) -> tuple[object, ...]:
    closeness = host["closeness"] or {"state": None, "rtt_ms": None, "via": None}
    state = "here" if host["here"] else closeness["state"]
    return (host["id"], host["region"], host["address"], _ports(host["ports"]), ", ".join(host["roles"]),
            "yes" if host["tls"] else "no", state, closeness["rtt_ms"], closeness["via"])


def _ports(ports: list[int]) -> str:
    """``7443-7446`` where they follow each other, as they do unless free ones were taken."""
    if len(ports) > 1 and ports == list(range(ports[0], ports[0] + len(ports))):
        return f"{ports[0]}-{ports[-1]}"
    return ", ".join(map(str, ports))


@command.command("show")
@click.argument("host", metavar="ID")
@pass_run
def show(run: Run, host: str) -> None:
    """One host."""
    data = run.nouns.show("hosts", host)
    run.output.result(data, lambda: run.output.fields(
        {**dict(zip(map(str.lower, COLUMNS), _row(data), strict=True)), "epoch": data["epoch"]}))


@command.command("remove")
@click.argument("host", metavar="ID")
@pass_run
def remove(run: Run, host: str) -> None:
    """Forget a host that is gone for good; one that runs comes back at once."""
    data = run.nouns.delete("hosts", host)
    run.output.result(data, lambda: told(run.output, data, f"host {host} removed"))
