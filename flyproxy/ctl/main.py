"""The ``flyproxyctl`` command: nouns, exit codes, and the one place where failures become words."""

from __future__ import annotations

import os
import sys

import click

from flyproxy._version import __version__
from flyproxy.ctl.cli import LazyGroup, Run
from flyproxy.ctl.failure import FAILED, USAGE, Failure, Usage

NOUNS = {
    "apps": "flyproxy.ctl.apps",
    "machines": "flyproxy.ctl.machines",
    "hostnames": "flyproxy.ctl.hostnames",
    "ips": "flyproxy.ctl.ips",
    "hosts": "flyproxy.ctl.hosts",
    "status": "flyproxy.ctl.status",
    "workers": "flyproxy.ctl.workers",
    "reload": "flyproxy.ctl.reload",
    "upgrade": "flyproxy.ctl.upgrade",
    "top": "flyproxy.ctl.top",
    "logs": "flyproxy.ctl.logs",
    "config": "flyproxy.ctl.config",
    "completion": "flyproxy.ctl.completion",
}
INTERRUPTED = 130


@click.group(cls=LazyGroup, nouns=NOUNS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flyproxyctl")
def command() -> None:
    """Ask and change a running flyproxy.

    Exit codes: 0 ok, 1 failed or found problems, 2 wrong usage, 3 not running.
    """


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    run = Run()
    try:
        command.main(arguments, prog_name="flyproxyctl", standalone_mode=False, obj=run)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return USAGE
    except click.UsageError as error:
        run.output.as_json |= "--json" in arguments
        where = error.ctx.command_path if error.ctx else "flyproxyctl"
        return _fail(run, Usage("usage", error.format_message(), where, f"see '{where} --help'"))
    except click.ClickException as error:
        return _fail(run, Failure("failed", error.format_message()))
    except Failure as error:
        return _fail(run, error)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout went away (`| head`); the interpreter's last flush must not complain of it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    return 0


def _fail(run: Run, failure: Failure) -> int:
    run.output.error(failure)
    return failure.status
