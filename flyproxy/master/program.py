"""The command that this process runs, as it is installed now: how it is executed again, and how it is tried before.

What is installed may be another version than the one that runs, or broken. A trial is a process of its own with the
same interpreter, options, environment and working directory, so what it finds is what an execve would run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from flyproxy.master.ctl import CommandError

TRIAL = 60.0  # seconds: an import of everything, on a machine that has other work
_WORDS = 600  # characters of a traceback: its end says what is wrong


@dataclass(frozen=True)
class Program:
    """``run``: the whole command line; ``check``: that of the same command's other verb."""

    run: tuple[str, ...]
    check: tuple[str, ...]

    @classmethod
    def of_this_process(cls, config: str | None) -> Program:
        """``flyproxy run``, as it was called. ``config``: the file that it was called with."""
        arguments = len(sys.argv) - 1
        before = (sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - arguments])
        check = (*before, "check", "--json", *(("-c", config) if config else ()))
        return cls((sys.executable, *sys.orig_argv[1:]), check)

    def try_out(self) -> str:
        """Its version; takes a second. Raises CommandError when it could not take over: then nothing has happened."""
        told = _trial(self.check)
        if "handover" not in told:
            raise refused("the version that is installed now cannot go on for a running one", " ".join(self.check),
                          "restart the service")  # fmt: skip
        return str(told["version"])


def refused(why: str, where: str = "", fix: str = "") -> CommandError:
    """An upgrade that does not happen."""
    return CommandError("upgrade_refused", why, where, fix)


def _trial(command: tuple[str, ...]) -> dict[str, Any]:
    """What the command says as data. Raises CommandError with its own words when it fails."""
    shown = " ".join(command)
    env = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    try:
        trial = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                               timeout=TRIAL, check=False)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise refused(f"what is installed now cannot be tried: {error}", shown, "install it again") from error
    told = _json(trial.stdout if trial.returncode == 0 else trial.stderr)
    if trial.returncode == 0 and isinstance(told.get("data"), dict):
        return dict(told["data"])
    if isinstance(why := told.get("error"), dict):
        raise refused(*(str(why.get(key, "")) for key in ("message", "where", "fix")))
    words = (trial.stderr.strip() or f"it ended with {trial.returncode}")[-_WORDS:]
    raise refused(f"what is installed now does not work: {words}", shown, "install it again; the old one goes on")


def _json(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
