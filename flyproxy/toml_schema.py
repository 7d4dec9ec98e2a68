"""Reads a TOML document into msgspec Structs, and says of everything that does not fit where it stands and what would.

A field's type is a Struct (a table), ``list[...]``, ``bool``, ``int``, ``str``, ``Any``, a ``Literal`` of strings, or
``Annotated`` with a Kind or Whole from ``units``; ``| None`` marks what may be absent. All problems of a file are
collected, so that one look mends them all. Nothing is converted silently: ``1`` is not ``true``.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from flyproxy.toml_positions import Document, Path, Position, Problem
from flyproxy.units import Kind, Whole

S = TypeVar("S", bound=msgspec.Struct)
Ignore = Callable[[Path], bool]
"""Says of the path of an unknown key whether it is accepted and left aside."""

_INVALID = object()


def read(document: Document, struct: type[S], ignore: Ignore = lambda path: False) -> tuple[S | None, Reader]:
    """The document as ``struct``, or None when the reader found problems."""
    reader = Reader(document, ignore)
    value = reader.table(struct, document.values, ())
    return (None if reader.problems else value), reader


class Reader:
    """Collects ``problems`` and the paths of ``ignored`` keys while it reads one document."""

    def __init__(self, document: Document, ignore: Ignore) -> None:
        self.document = document
        self.ignore = ignore
        self.problems: list[Problem] = []
        self.ignored: list[Path] = []

    def problem(self, position: Position, message: str) -> Any:
        """Notes a problem; returns the marker of an invalid value."""
        self.problems.append(Problem(self.document.file, position.line, position.column, message))
        return _INVALID

    def table(self, struct: type[S], values: dict[str, Any], path: Path) -> S:
        """One table as ``struct``; fields with problems are left at their defaults."""
        hints = field_types(struct)
        fields: dict[str, Any] = {}
        for key, raw in values.items():
            if key not in hints:
                self._unknown((*path, key), list(hints))
                continue
            value = self.value(hints[key], raw, (*path, key))
            if value is not _INVALID:
                fields[key] = value
        for field in msgspec.structs.fields(struct):
            if field.required and field.name not in fields:
                fields[field.name] = None
                if field.name not in values:
                    self.problem(self.document.value(path), f"missing key '{field.name}' {where(path)}")
        return struct(**fields)

    def _unknown(self, path: Path, known: list[str]) -> None:
        if self.ignore(path):
            self.ignored.append(path)
            return
        near = difflib.get_close_matches(str(path[-1]), known, 1, 0.6)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
        self.problem(self.document.key(path), f"unknown key {_quoted(path[-1])} {where(path[:-1])}; {hint}")

    def value(self, hint: Any, raw: Any, path: Path) -> Any:
        """``raw`` as the type ``hint`` asks, or the marker of an invalid value."""
        hint, kind = _unwrapped(hint)
        if isinstance(kind, Kind):
            return self._kind(kind, raw, path)
        if isinstance(kind, Whole):
            fits = type(raw) is int and kind.low <= raw <= kind.high
            return raw if fits else self._misfit(kind.expects, raw, path)
        if typing.get_origin(hint) is list:
            return self._array(typing.get_args(hint)[0], raw, path)
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            if isinstance(raw, str) and raw in choices:
                return raw
            near = difflib.get_close_matches(str(raw), choices, 1, 0.6)
            return self._misfit(one_of(choices), raw, path, f'; did you mean "{near[0]}"?' if near else "")
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self.table(hint, raw, path) if isinstance(raw, dict) else self._misfit("a table", raw, path)
        expects = {bool: "true or false", int: "a whole number", str: "text in quotes"}
        return raw if hint is Any or type(raw) is hint else self._misfit(expects[hint], raw, path)

    def _kind(self, kind: Kind, raw: Any, path: Path) -> Any:
        if type(raw) in kind.accepts:
            try:
                return kind.parse(raw)
            except ValueError:
                pass
        return self._misfit(kind.expects, raw, path)

    def _array(self, item: Any, raw: Any, path: Path) -> Any:
        if not isinstance(raw, list):
            return self._misfit("an array", raw, path)
        values = [self.value(item, element, (*path, index)) for index, element in enumerate(raw)]
        return [value for value in values if value is not _INVALID]

    def _misfit(self, expects: str, raw: Any, path: Path, hint: str = "") -> Any:
        name = next(str(part) for part in reversed(path) if isinstance(part, str))
        table = path[: len(path) - 1 - path[::-1].index(name)]
        message = f"'{name}' {where(table)} must be {expects}, not {_shown(raw)}{hint}"
        return self.problem(self.document.value(path), message)


def field_types(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The annotations of a Struct's fields, in order."""
    return typing.get_type_hints(struct, include_extras=True)


def _unwrapped(hint: Any) -> tuple[Any, Kind | Whole | None]:
    """Takes ``| None`` and ``Annotated`` off a type; returns it with its Kind or Whole."""
    kind = None
    if typing.get_origin(hint) is Annotated:
        kind = next((extra for extra in hint.__metadata__ if isinstance(extra, (Kind, Whole))), None)
        hint = hint.__origin__
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        hint, inner_kind = _unwrapped(inner)
        kind = kind or inner_kind
    return hint, kind


def expectation(hint: Any) -> str:
    """What a field of this type must be, as the documentation and the messages say it."""
    hint, kind = _unwrapped(hint)
    if kind is not None:
        return kind.expects
    if typing.get_origin(hint) is list:
        return f"an array; each {expectation(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is Literal:
        return one_of(typing.get_args(hint))
    return {bool: "true or false", int: "a whole number", str: "text"}.get(hint, "a table")


def shown(hint: Any, value: Any) -> Any:
    """An in-memory value as one would write it in the file."""
    hint, kind = _unwrapped(hint)
    if isinstance(kind, Kind):
        return kind.show(value)
    if typing.get_origin(hint) is list:
        return [shown(typing.get_args(hint)[0], item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {name: shown(inner, getattr(value, name)) for name, inner in field_types(type(value)).items()}
    return value


def one_of(choices: tuple[Any, ...]) -> str:
    """``"a"``, ``"b"`` or ``"c"``, quoted."""
    quoted = [f'"{choice}"' for choice in choices]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]


def where(path: Path) -> str:
    """``in [workers]``, ``in [[services.ports]]`` or ``at the top level``."""
    names = ".".join(str(part) for part in path if isinstance(part, str))
    if not names:
        return "at the top level"
    return f"in [[{names}]]" if isinstance(path[-1], int) else f"in [{names}]"


def dotted(path: Path) -> str:
    """``services[0].ports`` for messages and lists of keys."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _quoted(key: str | int) -> str:
    return "'" + json.dumps(str(key), ensure_ascii=False)[1:-1][:60] + "'"


def _shown(raw: Any) -> str:
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "an array"
    if isinstance(raw, (str, bool, int, float)):
        text = json.dumps(raw, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + '..."'
    return str(raw)
