"""What is not served and why, as a file in the state folder: for operators, for control, and for the next start."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import msgspec

from flyproxy.state.files import write_whole
from flyproxy.state.guard import Bad, Guard

FILE = "quarantine.json"
SHOWN = 1000


class Entry(msgspec.Struct):
    """A record in quarantine, or held (``reason`` empty: missing from a snapshot, see guard.py)."""

    scope: str
    key: str
    reason: str
    revision: int
    since: str
    no_room: bool = False


class Report(msgspec.Struct):
    """``quarantined`` lists at most SHOWN; ``quarantined_now`` and ``held_now`` count all."""

    v: int = 1
    quarantined_now: int = 0
    quarantined_ever: int = 0
    held_now: int = 0
    quarantined: list[Entry] = []
    held: list[Entry] = []


def read(state_dir: str) -> Report:
    """The newest report; an empty one when there is none that can be read."""
    try:
        with open(os.path.join(state_dir, FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=Report)
    except (OSError, msgspec.DecodeError):
        return Report()


def write(state_dir: str, report: Report) -> None:
    """Replaces the report. Raises OSError."""
    write_whole(os.path.join(state_dir, FILE), msgspec.json.encode(report))


def of(guard: Guard) -> Report:
    """What the guard keeps from being served, newest first."""
    bad = sorted(guard.bad.items(), key=lambda item: -item[1].since)[:SHOWN]
    held = list(guard.held.items())[:SHOWN]
    return Report(
        quarantined_now=len(guard.bad), quarantined_ever=guard.count, held_now=len(guard.held),
        quarantined=[
            Entry(*place, one.reason, one.revision, _shown(one.since), one.no_room) for place, one in bad
        ],
        held=[Entry(*place, "", guard.revision(place), _shown(since)) for place, since in held],
    )


def restore(guard: Guard, report: Report) -> None:
    """Gives a guard that has just taken the last-known-good files what these do not hold."""
    guard.count = report.quarantined_ever
    for entry in report.quarantined:
        bad = Bad(entry.reason, entry.revision, _seconds(entry.since), entry.no_room)
        guard.bad.setdefault((entry.scope, entry.key), bad)
    for entry in report.held:
        if entry.key in guard.good.get(entry.scope, {}):
            guard.held[entry.scope, entry.key] = _seconds(entry.since)


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(shown: str) -> float:
    try:
        return datetime.fromisoformat(shown).timestamp()
    except ValueError:
        return 0.0


def plain(report: Report) -> dict[str, Any]:
    """For JSON answers."""
    shown: dict[str, Any] = msgspec.to_builtins(report)
    return shown
