"""Runs ``flyproxyctl`` with an environment of its own; in this process, because starting an interpreter is slow."""

import contextlib
import io
import json
import os
from dataclasses import dataclass

import pytest


@dataclass
class Ran:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def data(self):
        """The data of a JSON answer."""
        answer = json.loads(self.out)
        assert answer["v"] == 1
        return answer["data"]

    @property
    def error(self):
        """The error of a JSON answer; it is the only thing on stderr, and stdout is empty."""
        assert self.out == ""
        answer = json.loads(self.err)
        assert answer["v"] == 1
        return answer["error"]


def environment(**extra):
    """The caller's environment without anything that steers flyproxyctl."""
    kept = {key: value for key, value in os.environ.items()
            if not key.startswith("FLYPROXY_") and key not in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "NO_COLOR")}
    return {**kept, **extra}


@pytest.fixture
def ctl(monkeypatch):
    """Call with arguments; ``env`` adds variables."""
    def call(*arguments, env=None):
        from flyproxy.ctl.main import main
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(os, "environ", environment(**(env or {})))
            status = main([str(argument) for argument in arguments])
        return Ran(status, out.getvalue(), err.getvalue())
    return call
