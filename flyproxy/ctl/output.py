"""What a person or a script sees: tables and sentences on stdout, errors on stderr, or JSON envelopes for both.

Colour only on a terminal and without NO_COLOR. rich is imported when the first table is printed, not before.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flyproxy.ctl.failure import Failure

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 100_000     # columns when stdout is no terminal: a script's line is never wrapped
STATES = {
    "passing": "green", "ready": "green", "listening": "green", "running": "green", "direct": "green",
    "critical": "red", "down": "red", "via": "yellow", "draining": "yellow", "starting": "yellow",
    "waiting: tls": "yellow",
}


def plain(text: str) -> str:
    """Without control characters, so that no record, file or log line can play with a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def cell(value: object) -> str:
    """A value in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else plain(str(value))


class Output:
    """Prints results. ``as_json`` is decided by --json before anything is printed."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, data: Any, human: Callable[[], None]) -> None:
        """The envelope with ``data``, or what ``human`` prints."""
        if self.as_json:
            print(json.dumps({"v": 1, "data": data}, ensure_ascii=False))
        else:
            human()
        sys.stdout.flush()

    def line(self, text: str) -> None:
        print(plain(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "none") -> None:
        """Columns aligned, numbers to the right; ``empty`` is the sentence for no rows."""
        cells = [[cell(value) for value in row] for row in rows]
        if not cells:
            print(empty)
            return
        from rich.table import Table
        from rich.text import Text
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            right = all(row[index].replace(".", "", 1).isdigit() or row[index] == "-" for row in cells)
            table.add_column(column, justify="right" if right else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(text, style=STATES.get(text, "")) for text in row))
        _console().print(table)

    def fields(self, pairs: Mapping[str, object]) -> None:
        """One record: a name and a value a line."""
        width = max(map(len, pairs), default=0)
        for name, value in pairs.items():
            print(f"{name:<{width}}  {cell(value)}")

    def error(self, failure: Failure) -> None:
        """What, where and how to mend it, on stderr."""
        if self.as_json:
            print(json.dumps(failure.to_json(), ensure_ascii=False), file=sys.stderr)
            return
        for problem in failure.problems:
            print(plain(problem), file=sys.stderr)
        red, normal = ("\x1b[31m", "\x1b[0m") if _colour(sys.stderr) else ("", "")
        print(f"{red}error:{normal} {plain(failure.message)} [{failure.code}]", file=sys.stderr)
        for name, text in (("where", failure.where), ("fix", failure.fix)):
            if text:
                print(f"  {name + ':':<6} {plain(text)}", file=sys.stderr)


def _colour(stream: Any) -> bool:
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _console() -> Console:
    from rich.console import Console
    colour = _colour(sys.stdout)
    return Console(no_color=not colour, highlight=False, markup=False, emoji=False, soft_wrap=False,
                   width=None if sys.stdout.isatty() else UNLIMITED)


def ports(ranges: Iterable[Mapping[str, Any]]) -> str:
    """``80 (http, listening), 9000-9010 (tcp)``."""
    told = []
    for port in ranges:
        span = str(port["port"]) if port.get("port") is not None else f"{port.get('start_port')}-{port.get('end_port')}"
        kind = "+".join(port.get("handlers") or ()) or "tcp"
        told.append(f"{span} ({kind}, {port['state']})" if port.get("state") else f"{span} ({kind})")
    return ", ".join(told)
