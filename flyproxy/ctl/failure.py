"""What makes a command fail, and with which exit code."""

from __future__ import annotations

from typing import Any

FAILED = 1
USAGE = 2
NOT_RUNNING = 3


class Failure(Exception):
    """A command that failed: what (message), where, and how to mend it. ``code`` is a stable word for scripts."""

    status = FAILED

    def __init__(self, code: str, message: str, where: str = "", fix: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix
        self.problems = problems

    def to_json(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message, "where": self.where, "fix": self.fix}
        if self.problems:
            error["problems"] = list(self.problems)
        return {"v": 1, "error": error}


class Usage(Failure):
    """The command line itself is wrong or incomplete."""

    status = USAGE


class NotRunning(Failure):
    """Nothing listens on the socket."""

    status = NOT_RUNNING
