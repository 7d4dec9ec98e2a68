"""The last-known-good files: what was served, on disk, so that a start needs no store.

One file for each scope: a line of JSON that describes it, then one for each record: [revision, key, value]. A file is
replaced whole, and its two predecessors are kept; a damaged one is passed over for the next older.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from flyproxy.state.files import make_folder, write_whole
from flyproxy.state.store import Cursor

FOLDER = "last-known-good"
KEPT = 3
VERSION = 1
_NAME = re.compile(r"(g|r-[a-z0-9-]+)\.lkg(?:\.\d)?", re.ASCII)
_ENCODER = msgspec.json.Encoder()
_LINES: msgspec.json.Decoder[tuple[int, str, str]] = msgspec.json.Decoder(tuple[int, str, str])


class Header(msgspec.Struct):
    """The first line."""

    v: int
    scope: str
    cursor: Cursor
    count: int
    sha256: str


class Saved(NamedTuple):
    """A file's content."""

    cursor: Cursor
    values: dict[str, tuple[bytes, int]]


class Damaged(Exception):
    """A file that cannot be used; the message says why."""


def save(state_dir: str, scope: str, cursor: Cursor, values: Iterable[tuple[str, bytes, int]]) -> None:
    """Writes one scope's file and keeps its predecessors. Raises OSError."""
    lines = [(revision, key, value.decode()) for key, value, revision in values]
    body = _ENCODER.encode_lines(lines)
    header = Header(VERSION, scope, cursor, len(lines), hashlib.sha256(body).hexdigest())
    folder = os.path.join(state_dir, FOLDER)
    make_folder(folder)
    path = os.path.join(folder, f"{scope}.lkg")
    draft = f"{path}.draft"
    write_whole(draft, msgspec.json.encode(header) + b"\n" + body)
    for age in range(KEPT - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(_aged(path, age - 1), _aged(path, age))
    os.replace(draft, path)


def load(state_dir: str, scope: str) -> tuple[Saved | None, list[str]]:
    """The newest whole file of a scope, and what was wrong with newer ones."""
    complaints: list[str] = []
    for age in range(KEPT):
        path = _aged(os.path.join(state_dir, FOLDER, f"{scope}.lkg"), age)
        try:
            return _read(path, scope), complaints
        except FileNotFoundError:
            continue
        except (OSError, Damaged) as error:
            complaints.append(f"{path}: {error}")
    return None, complaints


def scopes(state_dir: str) -> list[str]:
    """The scopes that have a file."""
    try:
        names = os.listdir(os.path.join(state_dir, FOLDER))
    except OSError:
        return []
    return sorted({match[1] for match in map(_NAME.fullmatch, names) if match})


def _aged(path: str, age: int) -> str:
    return f"{path}.{age}" if age else path


def _read(path: str, scope: str) -> Saved:
    with open(path, "rb") as file:
        first, body = file.readline(), file.read()
    try:
        header = msgspec.json.decode(first, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"its first line cannot be read: {error}") from None
    if header.v != VERSION or header.scope != scope:
        raise Damaged(f"it is version {header.v} of scope {header.scope!r}")
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise Damaged("its checksum does not fit: it was cut or changed")
    lines = _LINES.decode_lines(body)
    return Saved(header.cursor, {key: (value.encode(), revision) for revision, key, value in lines})
