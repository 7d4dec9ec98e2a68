"""Writing one record, and what every write says: what changed, and the revision that every worker now serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyproxy.ctl.cli import Run
from flyproxy.ctl.output import Output


def put(run: Run, noun: str, name: str, body: dict[str, Any], sentence: str) -> None:
    """Creates or changes ``name``; ``sentence`` says what is so now."""
    data = run.nouns.put(noun, name, body)
    run.output.result(data, lambda: told(run.output, data, sentence))


def delete(run: Run, noun: str, name: str, sentence: str) -> None:
    data = run.nouns.delete(noun, name)
    run.output.result(data, lambda: told(run.output, data, sentence))


def told(output: Output, data: Mapping[str, Any], sentence: str) -> None:
    """``app hello removed (revision 12)``, or that nothing had to change."""
    unchanged = "" if data.get("changed", True) else "; it was so already"
    stored = "" if data.get("served", True) else ", stored; served when flyproxy starts"
    output.line(f"{sentence}{unchanged} (revision {data['revision']}{stored})")
