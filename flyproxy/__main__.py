"""The ``flyproxy`` command: run the daemon, check its settings, say its version, look at the machine.

Exit status: 0 well, 1 failed or found problems, 2 usage.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from flyproxy import __version__, installation
from flyproxy.settings import DEFAULT_FILE, Settings, SettingsError, load, load_with_origins
from flyproxy.toml_positions import Problem

_FILE = click.option(
    "-c", "--config", metavar="FILE", default=None,
    help=f"The settings [default: $FLYPROXY_CONFIG, else {DEFAULT_FILE}].",
)  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An Anycast edge proxy for apps that run in VMs around the world.

    This command runs the daemon. 'flyproxyctl' talks to it: apps, machines, host names, status, reload.
    """


@main.command()
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Log JSON, whatever [log] format says.")
def run(config: str | None, as_json: bool) -> None:
    """Run the daemon in the foreground.

    SIGHUP reloads the settings, SIGTERM ends gracefully, SIGINT (Ctrl-C) quickly; both end with status 0.
    SIGUSR2 upgrades: this process becomes the flyproxy that is installed now, and no connection is lost.
    The log event "ready" (and READY=1 for systemd) means: table loaded, workers accepting.
    """
    import uvloop

    from flyproxy import log
    from flyproxy.boot import leave
    from flyproxy.master.main import Master
    from flyproxy.master.program import Program

    def read() -> Settings:
        settings = load(config, os.environ)
        return _with_json_log(settings) if as_json else settings

    settings = _settings(read, as_json)
    log.configure(settings.log, process="master")

    async def serve() -> int:
        return await Master(settings, read, Program.of_this_process(config)).run()

    leave(uvloop.run(serve()))


@main.command()
@_FILE
@_JSON
def check(config: str | None, as_json: bool) -> None:
    """Check the settings, offline, and that this installation is whole; problems as FILE:LINE:COL: message."""
    from flyproxy.master.handover import VERSION

    file = config or os.environ.get("FLYPROXY_CONFIG") or DEFAULT_FILE
    settings = _settings(lambda: _load_with_files(config), as_json)
    if problem := installation.problem():
        _fail("bad_installation", problem, installation.FOLDER, "install flyproxy again", as_json)
    if as_json:
        _print({"file": file, "listeners": len(settings.listeners), "problems": [], "version": __version__,
                "handover": VERSION})  # fmt: skip
    else:
        click.echo(f"{file}: all is well")


@main.command()
@_JSON
def version(as_json: bool) -> None:
    """Say the version."""
    if as_json:
        _print({"version": __version__, "python": platform.python_version(), "platform": platform.platform()})
    else:
        click.echo(f"flyproxy {__version__}")


@main.command()
@_FILE
@_JSON
def doctor(config: str | None, as_json: bool) -> None:
    """Look at this machine: what the daemon needs, and how to mend what is not so."""
    from flyproxy import doctor as examination

    settings = _settings(lambda: load(config, os.environ), as_json) if config else _settings_or_defaults()
    findings = examination.examine(settings)
    if as_json:
        _print([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            click.echo(examination.line(finding))
    sys.exit(1 if any(finding.level == "error" for finding in findings) else 0)


def _load_with_files(config: str | None) -> Settings:
    """The settings, the cluster key and the certificate tried too. Raises SettingsError."""
    from flyproxy import certificates, cluster_key

    loaded = load_with_origins(config, os.environ)
    backhaul = loaded.settings.backhaul
    problem: cluster_key.KeyFileError | certificates.CertificateError | None
    try:
        cluster_key.read(backhaul.key_file)
        found = certificates.read(backhaul)
        problem = certificates.judge(found, loaded.settings.host) if found else None
    except (cluster_key.KeyFileError, certificates.CertificateError) as error:
        problem = error
    if problem is not None:
        file, line, column = loaded.origins[f"backhaul.{problem.key}"].rsplit(":", 2)
        raise SettingsError([Problem(file, int(line), int(column), f"{problem}; {problem.fix}")])
    return loaded.settings


def _settings(read: Callable[[], Settings], as_json: bool) -> Settings:
    """The settings, or the end of the command with every problem on stderr."""
    try:
        return read()
    except SettingsError as error:
        if as_json:
            first = error.problems[0]
            _print_error({
                "code": "bad_settings", "message": first.message, "where": f"{first.file}:{first.line}:{first.column}",
                "fix": "mend the file and run 'flyproxy check' again",
                "problems": [str(each) for each in error.problems],
            })  # fmt: skip
        else:
            for problem in error.problems:
                click.echo(str(problem), err=True)
        sys.exit(1)


def _fail(code: str, message: str, where: str, fix: str, as_json: bool) -> NoReturn:
    if as_json:
        _print_error({"code": code, "message": message, "where": where, "fix": fix})
    else:
        click.echo(f"{where}: {message}; {fix}", err=True)
    sys.exit(1)


def _settings_or_defaults() -> Settings:
    """A machine can be looked at before it has any settings."""
    try:
        return load(None, os.environ)
    except SettingsError:
        return Settings()


def _with_json_log(settings: Settings) -> Settings:
    from msgspec.structs import replace

    return replace(settings, log=replace(settings.log, format="json"))


def _print(data: Any) -> None:
    click.echo(json.dumps({"v": 1, "data": data}))


def _print_error(error: dict[str, Any]) -> None:
    click.echo(json.dumps({"v": 1, "error": error}), err=True)


if __name__ == "__main__":
    main(prog_name="flyproxy")
