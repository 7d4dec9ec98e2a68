"""Files and functions stay small enough to be one idea each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_MAX = 500  # lines
FUNCTION_MAX = 75
FOLDERS = ("flyproxy", "bench", "docs", "examples", "scripts", "tests")
DEF = re.compile(r"^(\s*)(?:cdef|cpdef|def)\b.*\(.*")


def sources() -> list[Path]:
    return sorted(
        path for folder in FOLDERS for suffix in ("*.py", "*.pyx", "*.pxd") for path in (ROOT / folder).rglob(suffix)
    )


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name and line, number of lines)."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{node.name}:{node.lineno}", (node.end_lineno or 0) - node.lineno + 1
        return
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if (match := DEF.match(line)) and path.suffix == ".pyx":
            indent = len(match[1])
            end = next((at for at in range(start + 1, len(lines)) if ends(lines[at], indent)), len(lines))
            yield f"{line.strip()[:60]}:{start + 1}", len("\n".join(lines[start:end]).rstrip().splitlines())


def ends(line: str, indent: int) -> bool:
    """Whether a line stands outside a body that is indented deeper than ``indent``; the end of a signature does not."""
    return bool(line.strip()) and len(line) - len(line.lstrip()) <= indent and not line.lstrip().startswith(")")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_MAX, f"{lines} lines; split it: one idea in each file"
    long = [f"{name}: {count} lines" for name, count in functions(path) if count > FUNCTION_MAX]
    assert long == [], "split these functions"


def test_long_functions_are_found(tmp_path: Path) -> None:
    body = "\n".join("    x = 1" for _ in range(FUNCTION_MAX))
    python, cython = tmp_path / "a.py", tmp_path / "a.pyx"
    python.write_text(f"def f():\n{body}\n\n\ndef g():\n    pass\n")
    cython.write_text(
        f"cdef int f(\n    int a,\n) noexcept nogil:\n{body}\n\ncdef int g() noexcept nogil:\n    return 1\n"
    )
    assert [count for _, count in functions(python)] == [FUNCTION_MAX + 1, 2]
    assert [count for _, count in functions(cython)] == [FUNCTION_MAX + 3, 2]
