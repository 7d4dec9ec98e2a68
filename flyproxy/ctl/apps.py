"""``flyproxyctl apps``: what is served, from fly.toml files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from flyproxy.ctl import written
from flyproxy.ctl.cli import Group, Run, app_option, complete_app, pass_run
from flyproxy.ctl.failure import Failure, Usage
from flyproxy.ctl.output import ports

CASCADE = ("machines", "hostnames", "ips")


@click.group(cls=Group)
def command() -> None:
    """Apps: services, ports and limits, as their fly.toml says."""


@command.command("apply")
@click.argument("file", type=click.Path(dir_okay=False))
@app_option(text="Its name, instead of the one in FILE.")
@pass_run
def apply(run: Run, file: str, app: str | None) -> None:
    """Create or replace an app from FILE (a fly.toml)."""
    text = read(file)
    name = checked_name(text, file, app)
    data = run.nouns.put("apps", name, {"fly_toml": text, "file": file})

    def human() -> None:
        written.told(run.output, data, f"app {name} applied from {file}")
        if ignored := data["ignored_keys"]:
            run.output.line(f"not the proxy's, ignored: {', '.join(ignored)}")
        for service in data["services"]:
            run.output.line(f"  {ports(service['ports'])} -> machines' port {service['internal_port']}")

    run.output.result(data, human)


@command.command("list")
@pass_run
def list_(run: Run) -> None:
    """All apps."""
    apps = run.nouns.list("apps")
    run.output.result(apps, lambda: run.output.table(
        ("NAME", "HOSTNAMES", "PORTS"),
        [(app["name"], ", ".join(app["hostnames"]),
          "; ".join(ports(service["ports"]) for service in app["services"])) for app in apps],
        "no apps; add one: flyproxyctl apps apply FILE"))


@command.command("show")
@click.argument("app", shell_complete=complete_app)
@pass_run
def show(run: Run, app: str) -> None:
    """One app."""
    data = run.nouns.show("apps", app)
    run.output.result(data, lambda: _show(run, data))


def _show(run: Run, app: Mapping[str, Any]) -> None:
    run.output.fields({"name": app["name"], "hostnames": ", ".join(app["hostnames"]),
                       "ignored keys": ", ".join(app["ignored_keys"])})
    run.output.table(
        ("PORTS", "INTERNAL PORT", "COUNTS", "SOFT", "HARD", "BALANCE"),
        [(ports(service["ports"]), service["internal_port"], service["concurrency"]["type"],
          service["concurrency"]["soft_limit"], service["concurrency"]["hard_limit"], service["balance"])
         for service in app["services"]],
        "no services")


@command.command("remove")
@click.argument("app", shell_complete=complete_app)
@click.option("--yes", is_flag=True, help="Really remove it, with all that belongs to it.")
@pass_run
def remove(run: Run, app: str, yes: bool) -> None:
    """Remove an app with its machines, hostnames and addresses."""
    if not yes:
        counts = _belongings(run, app)
        raise Usage("needs-yes", f"removing app {app} also removes {counts}", "flyproxyctl apps remove",
                    f"to go on: flyproxyctl apps remove {app} --yes")
    written.delete(run, "apps", app, f"app {app} removed")


def _belongings(run: Run, app: str) -> str:
    parts = []
    for noun in CASCADE:
        names = [str(row.get("id") or row.get("hostname") or row.get("address"))
                 for row in run.nouns.list(noun, app)]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        parts.append(f"{len(names)} {noun}" + (f" ({shown})" if names else ""))
    return ", ".join(parts)


def read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Failure("unreadable", f"not UTF-8 text: byte {error.start}", file, "save the file as UTF-8") from None
    except OSError as error:
        raise Failure("unreadable", f"cannot be read: {error.strerror}", file, "check the path") from None


def checked_name(text: str, file: str, name: str | None) -> str:
    """The app's name; a Failure with every problem of the file, so that they are told even when nothing runs."""
    from flyproxy.apps.fly_toml import FlyTomlError, load
    try:
        return load(text.encode(), file, name).name
    except FlyTomlError as error:
        raise Failure("fly-toml", "nothing was applied", file, "mend the lines above and apply again",
                      tuple(str(problem) for problem in error.problems)) from None
