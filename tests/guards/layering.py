"""Who may import whom, for .py, .pyx and .pxd; docs/architecture.md gives the reasons.

python tests/guards/layering.py [ROOT]        prints every breach as FILE:LINE: why; exit code 1 if there is one
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]

# The compiled part: a module cimports only from its own folder or from those listed here.
BELOW = {
    "mem": set(),
    "shm": {"mem"},
    "proto": {"mem", "shm"},
    "route": {"mem", "shm"},
    "net": {"mem", "shm"},
    "flow": {"mem", "shm", "proto", "route", "net"},
    "": {"mem", "shm", "proto", "route", "net", "flow"},  # engine and the test doors, at the top
}
EVERYONE = {"errors"}  # generated constants

# The doors into the compiled part: only the listed packages may import them.
DOORS = {
    "flyproxy._speedups.engine": {"flyproxy.worker"},
    "flyproxy._speedups.shm.table": {"flyproxy.state", "flyproxy.control", "flyproxy.master"},
    "flyproxy._speedups.shm.closeness": {"flyproxy.control", "flyproxy.state"},
    "flyproxy._speedups.shm.counters": {"flyproxy.control"},
    "flyproxy._speedups.shm.logring": {"flyproxy.control"},
    "flyproxy._speedups.shm.beat": {
        "flyproxy.master",
        "flyproxy.worker",
        "flyproxy.control",
        "flyproxy.state",
        "flyproxy.boot",
    },
}
WRITER = (
    "TableWriter",
    {"flyproxy.state.publish", "flyproxy.state.main"},
)  # publish writes with what main made; others read
APART = [("flyproxy.master", "flyproxy.worker"), ("flyproxy.worker", "flyproxy.master")]
NOT_IN_WORKERS = {"aiohttp", "cryptography", "opentelemetry"}

CIMPORT = re.compile(r"^\s*(?:from\s+(flyproxy[\w.]*)\s+c?import\s+(\w+)|c?import\s+(flyproxy[\w.]*))")


class Import(NamedTuple):
    """``module`` as written, ``name`` what is taken from it ("" for a plain import)."""

    file: Path
    line: int
    module: str
    name: str


def module_name(root: Path, file: Path) -> str:
    parts = list(file.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_imports(file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, "")
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield Import(file, node.lineno, node.module, alias.name)


def cython_imports(file: Path) -> Iterator[Import]:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if match := CIMPORT.match(line):
            yield Import(file, number, match[1] or match[3], match[2] or "")


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def compiled_breaches(root: Path) -> Iterator[tuple[Import, str]]:
    base = root / "flyproxy/_speedups"
    for file in sorted([*base.rglob("*.pyx"), *base.rglob("*.pxd")]):
        folder = file.parent.name if file.parent != base else ""
        for found in cython_imports(file):
            if not inside(found.module, "flyproxy._speedups"):
                yield found, f"the compiled part imports no Python module of ours, but {found.module}"
                continue
            parts = found.module.split(".")[2:]
            target = parts[0] if len(parts) > 1 or parts[:1] != ["errors"] else "errors"
            if target.startswith("_testing") and not file.stem.startswith("_testing"):
                yield found, "nothing but tests may import a test door"
            elif not target.startswith("_testing") and target not in {folder, *BELOW.get(folder, set()), *EVERYONE}:
                yield found, f"{folder or 'the top'} may cimport from {allowed(folder)}, not from {target}"


def allowed(folder: str) -> str:
    return ", ".join(sorted({folder, *BELOW.get(folder, set())} - {""})) or "nothing"


def python_breaches(root: Path) -> Iterator[tuple[Import, str]]:
    for file in sorted((root / "flyproxy").rglob("*.py")):
        here = module_name(root, file)
        for found in python_imports(file):
            target = f"{found.module}.{found.name}" if found.name else found.module
            for package, other in APART:
                if inside(here, package) and inside(target, other):
                    yield found, f"{package} and {other} never import each other"
            for door, users in DOORS.items():
                if inside(target, door) and not any(inside(here, user) for user in users):
                    yield found, f"only {', '.join(sorted(users))} may import {door}"
            if inside(found.module, "flyproxy._speedups") and found.name == WRITER[0] and here not in WRITER[1]:
                yield found, f"only {', '.join(sorted(WRITER[1]))} may write the table"
            if "_testing" in target and inside(target, "flyproxy._speedups"):
                yield found, "nothing but tests may import a test door"


def worker_breaches(root: Path) -> Iterator[tuple[Import, str]]:
    """What workers import at the top of a module, directly or through modules of ours."""
    files = {module_name(root, file): file for file in (root / "flyproxy").rglob("*.py")}
    todo = [name for name in files if inside(name, "flyproxy.worker")]
    seen = set(todo)
    while todo:
        name = todo.pop()
        for found in top_imports(files[name]):
            if found.module.partition(".")[0] in NOT_IN_WORKERS:
                yield found, f"workers load no {found.module.partition('.')[0]}, and {name} is loaded by workers"
            for target in (found.module, f"{found.module}.{found.name}"):
                if target in files and target not in seen:
                    seen.add(target)
                    todo.append(target)


def top_imports(file: Path) -> Iterator[Import]:
    top = {node.lineno for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)}
    return (found for found in python_imports(file) if found.line in top)


def breaches(root: Path) -> list[str]:
    """``FILE:LINE: why``, sorted."""
    found = [*compiled_breaches(root), *python_breaches(root), *worker_breaches(root)]
    return sorted(f"{one.file.relative_to(root)}:{one.line}: {why}" for one, why in found)


if __name__ == "__main__":
    lines = breaches(Path(sys.argv[1]) if sys.argv[1:] else REPOSITORY)
    print("\n".join(lines) if lines else "layering: no breach")
    sys.exit(bool(lines))
