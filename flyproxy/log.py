"""Structured logs of every process: one line per event on stderr, JSON or text, with the same keys everywhere.

``time level event message pid process`` and whatever the caller adds (``app``, ``code``, ``request_id``, ...).
``event`` is a fixed name in kebab case for machines; ``message`` is for people. Control characters are escaped, so a
hostile name cannot forge a line.

A log line never blocks its process: a reader of stderr that stalls costs lines, which are counted and reported by the
next line that gets through.
"""

from __future__ import annotations

import json
import os
import select
import sys
from datetime import UTC, datetime
from typing import Any, Protocol

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_FIRST = ("time", "level", "event", "message", "pid", "process")
_LINE_MAX = 16 * 1024  # bytes; longer ones are cut: a pipe takes 64 KiB at most


class LogSettings(Protocol):
    """The part of the settings' [log] section that this module reads."""

    @property
    def level(self) -> str: ...
    @property
    def format(self) -> str: ...


class _Config:
    threshold = LEVELS["info"]
    text = False
    process = "flyproxy"
    dropped = 0


def configure(settings: LogSettings, process: str) -> None:
    """Sets level, format and the name of this process; may be called again after a reload."""
    _Config.threshold = LEVELS[settings.level]
    _Config.text = settings.format == "text"
    _Config.process = process


def debug(event: str, message: str, **fields: Any) -> None:
    """Logs what only someone who looks for it wants to see."""
    _emit("debug", event, message, fields)


def info(event: str, message: str, **fields: Any) -> None:
    """Logs what happened as planned."""
    _emit("info", event, message, fields)


def warning(event: str, message: str, **fields: Any) -> None:
    """Logs what an operator should look at some time."""
    _emit("warning", event, message, fields)


def error(event: str, message: str, **fields: Any) -> None:
    """Logs what an operator should look at now."""
    _emit("error", event, message, fields)


def _emit(level: str, event: str, message: str, fields: dict[str, Any]) -> None:
    if LEVELS[level] < _Config.threshold:
        return
    if _Config.dropped:
        fields = {**fields, "lines_dropped": _Config.dropped}
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level, "event": event, "message": message, "pid": os.getpid(), "process": _Config.process, **fields,
    }  # fmt: skip
    line = _as_text(record) if _Config.text else json.dumps(record, default=str)
    if _write(line.encode("utf-8", "backslashreplace")[: _LINE_MAX - 1] + b"\n"):
        _Config.dropped = 0
    else:
        _Config.dropped += 1


def _as_text(record: dict[str, Any]) -> str:
    extra = "".join(f" {key}={_plain(value)}" for key, value in record.items() if key not in _FIRST)
    head = f"{record['time']} {record['level'].upper():7} {record['process']}[{record['pid']}] {record['event']}"
    return f"{head}: {_escape(record['message'])}{extra}"


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text) if " " in text or '"' in text else _escape(text)


def _escape(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write(line: bytes) -> bool:
    """False when stderr is closed or would block: POLLOUT promises room for at least PIPE_BUF bytes (pipe(7))."""
    try:
        fd = sys.stderr.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while line:
            if not poll.poll(0):
                return False
            line = line[os.write(fd, line[: select.PIPE_BUF]) :]
    except (OSError, ValueError, AttributeError):
        return False
    return True
