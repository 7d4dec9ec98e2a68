"""A merge leaves nothing behind: its marks spoil a page where no tool reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".ci", "bench", "deploy", "docs", "examples", "flyproxy", "scripts", "tests")
MARKS = tuple(mark * 7 for mark in "<|>")
BINARY = {".so", ".pyc"}


def leftovers(text: str) -> list[str]:
    return [f"line {number}: {line}" for number, line in enumerate(text.splitlines(), 1) if line.startswith(MARKS)]


@pytest.mark.parametrize("folder", [".", *FOLDERS])
def test_no_mark_of_a_merge_is_left(folder: str) -> None:
    below = (ROOT / folder).glob("*" if folder == "." else "**/*")
    files = [path for path in below if path.is_file() and path.suffix not in BINARY]
    assert files, "nothing was read"
    assert [f"{path}, {one}" for path in files for one in leftovers(path.read_text(errors="replace"))] == []


def test_marks_are_found() -> None:
    text = f"a\n{'<' * 7} HEAD\nb\n{'=' * 7}\nc\n{'>' * 7} other\n"
    assert [one.partition(":")[0] for one in leftovers(text)] == ["line 2", "line 6"]
