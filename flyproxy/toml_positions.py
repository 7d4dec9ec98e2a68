"""TOML with the line and column of every key and value.

``tomllib`` gives the values and the language's own errors; ``tree-sitter-toml`` gives only the places. So what counts
as valid TOML is decided by one parser, and the other can at worst point at the wrong place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tree_sitter
import tree_sitter_toml

Path = tuple[str | int, ...]
MAX_BYTES = 1 << 20
"""No hand-written file is longer; a longer one is a mistake and would only cost time."""

_LANGUAGE = tree_sitter.Language(tree_sitter_toml.language())
_SYNTAX = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_KEYS = ("bare_key", "quoted_key", "dotted_key")


class Position(NamedTuple):
    """Counted from 1, columns in characters."""

    line: int
    column: int


class Problem(NamedTuple):
    """One thing to mend in a file; ``line`` 0 means the file as a whole."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}" if self.line else f"{self.file}: {self.message}"


class TomlError(Exception):
    """The text is not TOML; ``problem`` says where."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Document:
    """A parsed file: ``values`` as ``tomllib`` gives them, and where each key and value stands."""

    file: str
    values: dict[str, Any]
    keys: dict[Path, Position] = field(default_factory=dict)
    places: dict[Path, Position] = field(default_factory=dict)

    def key(self, path: Path) -> Position:
        """Where the key at ``path`` is written, else its nearest parent's."""
        return self._nearest(self.keys, path)

    def value(self, path: Path) -> Position:
        """Where the value at ``path`` begins, else its nearest parent's."""
        return self._nearest(self.places, path)

    @staticmethod
    def _nearest(known: dict[Path, Position], path: Path) -> Position:
        while path and path not in known:
            path = path[:-1]
        return known.get(path, Position(1, 1))


def parse(data: bytes, file: str) -> Document:
    """Parses ``data``; ``file`` is only for messages. Raises TomlError."""
    if len(data) > MAX_BYTES:
        raise TomlError(Problem(file, 0, 0, f"the file has {len(data)} bytes, more than the {MAX_BYTES} allowed"))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TomlError(Problem(file, line, 1, f"byte 0x{data[error.start]:02x} is not UTF-8 text")) from None
    try:
        document = Document(file, tomllib.loads(text))
        _Places(document, data).read()
    except tomllib.TOMLDecodeError as error:
        raise TomlError(_syntax_problem(error, text, file)) from None
    except RecursionError:
        raise TomlError(Problem(file, 0, 0, "arrays or tables are nested too deeply")) from None
    return document


def _syntax_problem(error: tomllib.TOMLDecodeError, text: str, file: str) -> Problem:
    lines = text.splitlines() or [""]
    line, column = len(lines), len(lines[-1]) + 1
    match = _SYNTAX.search(str(error))
    if match and match["line"]:
        line, column = int(match["line"]), int(match["column"])
    return Problem(file, line, column, "not valid TOML: " + _SYNTAX.sub("", str(error)))


class _Places:
    """One walk over the syntax tree that fills ``document.keys`` and ``document.places``."""

    def __init__(self, document: Document, data: bytes) -> None:
        self.document = document
        self.lines = data.split(b"\n")
        self.root = tree_sitter.Parser(_LANGUAGE).parse(data).root_node
        self.counts: dict[Path, int] = {}

    def read(self) -> None:
        for node in self.root.children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def _position(self, node: tree_sitter.Node) -> Position:
        row, column = node.start_point
        return Position(row + 1, len(self.lines[row][:column].decode(errors="replace")) + 1)

    def _table(self, node: tree_sitter.Node) -> None:
        key = next((child for child in node.children if child.type in _KEYS), None)
        if key is None:
            return
        path = self._declare(key, (), header=True)
        if node.type == "table_array_element":
            index = self.counts[path] = self.counts.get(path, -1) + 1
            if index == 0:
                self.document.places[path] = self._position(node)
            path = (*path, index)
            self.document.keys[path] = self._position(key)
        self.document.places[path] = self._position(node)
        for child in node.children:
            if child.type == "pair":
                self._pair(child, path)

    def _pair(self, node: tree_sitter.Node, base: Path) -> None:
        # Key, "=", value, and perhaps a comment.
        if len(node.children) >= 3:
            self._value(node.children[2], self._declare(node.children[0], base, header=False))

    def _declare(self, key: tree_sitter.Node, base: Path, header: bool) -> Path:
        """Notes each part of a possibly dotted key and returns its path; a header's parents mean their last element."""
        path = base
        for part, node in self._parts(key):
            if header and path in self.counts:
                path = (*path, self.counts[path])
            path = (*path, part)
            self.document.keys.setdefault(path, self._position(node))
            self.document.places.setdefault(path, self._position(node))
        return path

    def _parts(self, key: tree_sitter.Node) -> Iterator[tuple[str, tree_sitter.Node]]:
        if key.type == "dotted_key":
            for child in key.children:
                yield from self._parts(child)
        elif key.type in _KEYS:
            text = (key.text or b"").decode()
            yield (text if key.type == "bare_key" else next(iter(tomllib.loads(text + "=0")))), key

    def _value(self, node: tree_sitter.Node, path: Path) -> None:
        self.document.places[path] = self._position(node)
        if node.type == "array":
            elements = [child for child in node.children if child.is_named and child.type != "comment"]
            for index, element in enumerate(elements):
                self._value(element, (*path, index))
        elif node.type == "inline_table":
            for child in node.children:
                if child.type == "pair":
                    self._pair(child, path)
