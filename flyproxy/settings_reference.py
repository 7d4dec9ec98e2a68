"""The table of all keys for docs/configuration.md, made from the Structs: ``python -m flyproxy.settings_reference``."""

from __future__ import annotations

import json
import typing
from typing import Annotated, Any

import msgspec

from flyproxy.settings import Listener, Settings
from flyproxy.toml_schema import expectation, field_types, shown


def render() -> str:
    """Markdown: one table for the top level and one for each section, in the file's order."""
    top, sections = [], []
    for field in msgspec.structs.fields(Settings):
        hint = field_types(Settings)[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            sections.append(_section(f"[{field.name}]", hint))
        elif typing.get_origin(hint) is list:
            sections.append(_section(f"[[{field.name}]]", Listener))
        else:
            top.append(_row(hint, field))
    return "\n\n".join([_table("Top level", top), *sections]) + "\n"


def _section(title: str, struct: type[msgspec.Struct]) -> str:
    hints = field_types(struct)
    return _table(title, [_row(hints[field.name], field) for field in msgspec.structs.fields(struct)])


def _table(title: str, rows: list[str]) -> str:
    return "\n".join([f"### `{title}`" if title[0] == "[" else f"### {title}", "",
                      "| key | default | must be | meaning |", "|---|---|---|---|", *rows])


def _row(hint: Any, field: msgspec.structs.FieldInfo) -> str:
    meaning = ""
    if typing.get_origin(hint) is Annotated:
        meaning = next((extra for extra in hint.__metadata__ if isinstance(extra, str)), "")
    default = "(required)" if field.required else f"`{json.dumps(shown(hint, _default(field)))}`"
    return f"| `{field.name}` | {default} | {expectation(hint)} | {meaning} |"


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


if __name__ == "__main__":
    print(render(), end="")
