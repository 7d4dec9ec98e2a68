"""The JSON shape of every answer, and the error that becomes one."""

from __future__ import annotations

from typing import Any

import msgspec


class Refused(Exception):
    """A request that cannot be done: ``status`` for HTTP, the rest for the person who asked."""

    def __init__(self, status: int, code: str, message: str, where: str = "", fix: str = "",
                 problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix
        self.problems = problems


def ok(data: Any) -> bytes:
    """``{"v":1,"data":...}``."""
    return msgspec.json.encode({"v": 1, "data": data}) + b"\n"


def error(refused: Refused) -> bytes:
    """``{"v":1,"error":{"code","message","where","fix"}}``; ``problems`` beside them where there are several."""
    told: dict[str, Any] = {"code": refused.code, "message": refused.message, "where": refused.where,
                            "fix": refused.fix}
    if refused.problems:
        told["problems"] = refused.problems
    return msgspec.json.encode({"v": 1, "error": told}) + b"\n"
