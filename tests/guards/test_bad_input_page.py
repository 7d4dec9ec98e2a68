"""docs/bad-input.md names a living test for each row."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from flyproxy import errors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/bad-input.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.read_text().splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| no |"))
]


def named_by(reference: str) -> list[str]:
    """Test functions that a reference like ``FILE::PATTERN`` means; FILE without a folder stands in tests/proto/."""
    file, _, pattern = reference.partition("::")
    path = ROOT / ("" if file.startswith("tests/") else "tests/proto") / file
    names = re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE) if path.is_file() else []
    return fnmatch.filter(names, pattern.partition("[")[0] or "test_*")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1][:40]}")
def test_every_row_names_a_test_that_exists(row: list[str]) -> None:
    references = re.findall(r"`([^`]+\.py(?:::[^`]+)?)`", row[-1])
    assert references, "the last column names no test"
    for reference in references:
        assert named_by(reference), f"{reference}: no such test"


def test_every_code_is_in_the_table_with_that_status() -> None:
    cited = re.findall(r"\b(P[A-Z]\d\d) (\d{3})\b", PAGE.read_text())
    assert len(cited) > 30
    family = {"PU": 502}
    for code, status in cited:
        assert errors.BY_CODE[code].status in (int(status), family.get(code[:2])), f"{code} is not {status}"
    assert set(re.findall(r"\bP[A-Z]\d\d\b", PAGE.read_text())) <= errors.BY_CODE.keys()


def test_every_case_of_heads_frames_and_proxy_headers_has_a_row() -> None:
    numbers = {int(row[0]) for row in ROWS if row[0].isdigit()}
    assert set(range(1, 51)) | set(range(55, 73)) <= numbers
    assert {53, 96, 98} <= numbers
