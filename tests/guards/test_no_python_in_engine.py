"""No Python in the engine: the C that Cython made of every ``noexcept nogil`` function calls nothing of Python's.

``nogil`` in the source is no proof: division without ``cdivision``, memoryviews and ``with gil`` all take the GIL in
such functions. So the generated C is read, function by function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "flyproxy/_speedups"
GENERATED = ROOT / "build/release/c/flyproxy/_speedups"
FOLDERS = ("mem", "shm", "proto", "route", "net", "flow")
BUILD = "make build (or: python setup.py build_ext --inplace)"

# Calls that are allowed although they look like Python's, each with its reason. None is needed today.
ALLOWED: dict[str, str] = {}

# `cdef ... name(...) noexcept nogil:`, the declaration possibly over several lines.
DEFINITION = re.compile(
    r"^[ \t]*cdef\s(?:inline\s+)?[^\n()=]*?\b(\w+)\s*\((?:[^()]|\([^()]*\))*\)\s*noexcept\s+nogil\s*:", re.MULTILINE)
# Any function-like cdef, whatever follows its parameters.
ANY_DEFINITION = re.compile(
    r"^[ \t]*cdef\s(?:inline\s+)?[^\n()=:]*?\b(\w+)\s*\((?:[^()]|\([^()]*\))*\)[^\n:]*:[ \t]*(?:#.*)?$", re.MULTILINE)
PYTHON_CALL = re.compile(r"\b(_?Py[A-Z_]\w*|__Pyx_\w+)\s*\(")


def modules() -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((SOURCES / folder).glob("*.pyx"))]
    return [*found, *sorted(SOURCES.glob("engine.pyx"))]


def without_comments(text: str) -> str:
    """C without comments and strings: both may hold anything, source lines of the .pyx included."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', " ", text, flags=re.DOTALL)


def bodies(c_text: str) -> Iterator[tuple[str, str]]:
    """(C name, body) of every function that Cython made of a cdef function."""
    for match in re.finditer(r"^static [^;{}=]*?\b(__pyx_f_\w+)\((?:[^(){};]|\([^(){};]*\))*\)\s*\{", c_text,
        re.MULTILINE):
        depth, at = 1, match.end()
        while depth:
            brace = re.compile(r"[{}]").search(c_text, at)
            assert brace is not None, f"unbalanced braces in {match[1]}"
            depth += 1 if brace[0] == "{" else -1
            at = brace.end()
        yield match[1], c_text[match.end():at]


def nogil_names(path: Path) -> set[str]:
    texts = [path.read_text(), *(p.read_text() for p in [path.with_suffix(".pxd")] if p.exists())]
    return {name for text in texts for name in DEFINITION.findall(text)}


def generated(path: Path) -> Path:
    return (GENERATED / path.relative_to(SOURCES)).with_suffix(".c")


def python_calls(body: str) -> set[str]:
    return set(PYTHON_CALL.findall(body)) - ALLOWED.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_nogil_functions_call_no_python(path: Path) -> None:
    c_file = generated(path)
    assert c_file.is_file(), f"{c_file.relative_to(ROOT)} is missing; build it: {BUILD}"
    wanted = nogil_names(path)
    seen = set()
    for c_name, body in bodies(without_comments(c_file.read_text())):
        name = max((name for name in wanted if c_name.endswith(f"_{name}")), key=len, default=None)
        if name is not None:
            seen.add(name)
            assert not python_calls(body), f"{path.name}: {name} calls {', '.join(sorted(python_calls(body)))}"
    unused_inlines = {name for name in wanted - seen if path.with_suffix(".pxd").exists()
                      and re.search(rf"\bcdef inline [^\n]*\b{name}\(", path.with_suffix(".pxd").read_text())}
    assert seen | unused_inlines == wanted, f"not found in {c_file.name}: {sorted(wanted - seen)}; stale? {BUILD}"


@pytest.mark.parametrize("folder", ["mem", "proto", "route", "net", "flow"])
def test_every_function_below_the_doors_is_noexcept_nogil(folder: str) -> None:
    for path in sorted((SOURCES / folder).glob("*.px[dy]")):
        text = re.sub(r"#.*", "", path.read_text())
        loose = set(ANY_DEFINITION.findall(text)) - set(DEFINITION.findall(text))
        assert not loose, f"{folder}/{path.name}: {sorted(loose)} lack 'noexcept nogil'"


def test_the_scan_sees_what_it_must() -> None:
    c_text = '''
static int __pyx_f_8flyproxy_3mem_f(int a, void (*g)(int)) {
  /* PyObject_Call(x) */ const char *s = "PyErr_Clear() { ";
  if (a) { __pyx_v = PyLong_FromLong(1); }
  return __Pyx_div_int(a, 2);
}
static CYTHON_INLINE void __pyx_f_8flyproxy_3mem_g(Py_ssize_t n) { memcpy(a, b, (Py_ssize_t)n); }
'''
    found = {name: python_calls(body) for name, body in bodies(without_comments(c_text))}
    assert found == {"__pyx_f_8flyproxy_3mem_f": {"PyLong_FromLong", "__Pyx_div_int"},
        "__pyx_f_8flyproxy_3mem_g": set()}
    assert DEFINITION.findall("cdef inline int a(int b,\n    int (*c)(int) noexcept nogil) noexcept nogil:\n") == ["a"]
    assert ANY_DEFINITION.findall("cdef int a(int b):\n    pass\ncdef f() except -1:\n") == ["a", "f"]
