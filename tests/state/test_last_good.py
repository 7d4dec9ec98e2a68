"""Last-known-good files: whole or passed over, the newest whole one wins."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flyproxy.state import last_good
from flyproxy.state.store import Cursor

VALUES = {"app.a": (b'[1,"a"]', 3), "app.b": ("[1,\n \"b\u00e9\"]".encode(), 4)}


def save(folder: Path, revision: int) -> Cursor:
    cursor = Cursor("epoch", revision, 1.5)
    last_good.save(str(folder), "g", cursor, [(key, value, number) for key, (value, number) in VALUES.items()])
    return cursor


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    cursor = save(tmp_path, 9)
    assert last_good.load(str(tmp_path), "g") == (last_good.Saved(cursor, VALUES), [])
    assert last_good.scopes(str(tmp_path)) == ["g"]


def test_the_files_are_private_and_three_are_kept(tmp_path: Path) -> None:
    for revision in range(5):
        save(tmp_path, revision)
    files = sorted((tmp_path / "last-known-good").iterdir())
    assert [path.name for path in files] == ["g.lkg", "g.lkg.1", "g.lkg.2"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"{}\n" + data,
    lambda data: data.replace(b"[1", b"[2"), lambda data: b"\xff" * 100, lambda data: data + b"x",
    lambda data: data.replace(b'"v":1', b'"v":2'), lambda data: data.replace(b'"scope":"g"', b'"scope":"h"'),
])
def test_a_damaged_file_is_passed_over_for_an_older_one(tmp_path: Path, damage: object) -> None:
    older = save(tmp_path, 1)
    save(tmp_path, 2)
    newest = tmp_path / "last-known-good" / "g.lkg"
    newest.write_bytes(damage(newest.read_bytes()))  # type: ignore[operator]
    saved, complaints = last_good.load(str(tmp_path), "g")
    assert saved is not None
    assert saved.cursor == older
    assert len(complaints) == 1
    assert "g.lkg" in complaints[0]


def test_without_any_whole_file_there_is_nothing(tmp_path: Path) -> None:
    assert last_good.load(str(tmp_path), "g") == (None, [])
    assert last_good.scopes(str(tmp_path)) == []


def test_a_write_that_fails_leaves_the_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = save(tmp_path, 1)

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    monkeypatch.undo()
    saved, complaints = last_good.load(str(tmp_path), "g")
    assert saved is not None
    assert (saved.cursor, complaints) == (cursor, [])
    assert [path.name for path in (tmp_path / "last-known-good").iterdir()] == ["g.lkg"]
