"""The note of what was being applied: a record that killed the process twice is not touched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyproxy.state.poison import Poison

PLACE = ("g", "app.a")


def start(folder: Path) -> Poison:
    return Poison(str(folder))


def crash_on(folder: Path, revision: int) -> None:
    process = start(folder)
    process.touching(PLACE, revision)
    process.close()


def test_a_record_is_poison_after_the_second_crash(tmp_path: Path) -> None:
    crash_on(tmp_path, 5)
    assert start(tmp_path).poisoned == {}
    crash_on(tmp_path, 5)
    assert start(tmp_path).poisoned == {PLACE: 5}
    assert start(tmp_path).poisoned == {PLACE: 5}, "an orderly start changes nothing"


def test_another_revision_of_the_record_begins_anew(tmp_path: Path) -> None:
    crash_on(tmp_path, 5)
    crash_on(tmp_path, 6)
    assert start(tmp_path).poisoned == {}


def test_what_was_applied_is_no_suspect(tmp_path: Path) -> None:
    for _ in range(3):
        process = start(tmp_path)
        process.touching(PLACE, 5)
        process.done()
        process.close()
    assert start(tmp_path).suspects == []


@pytest.mark.parametrize("content", [b"", b"\n", b"not json\n", b'{"scope":1}\n', b"\xff" * 5000])
def test_a_damaged_note_is_no_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "applying").write_bytes(content)
    (tmp_path / "poisoned.json").write_bytes(content)
    assert start(tmp_path).poisoned == {}


def test_without_a_folder_to_write_it_works_all_the_same(tmp_path: Path) -> None:
    process = Poison(str(tmp_path / "missing"))
    process.touching(PLACE, 1)
    process.done()
    assert process.poisoned == {}
