"""docs/configuration.md says what the settings are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from flyproxy.settings import Settings
from flyproxy.settings_reference import render
from flyproxy.toml_schema import field_types

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def test_the_page_has_the_tables_that_the_settings_give() -> None:
    assert render().strip() in PAGE, "run: python -m flyproxy.settings_reference, and put its output into the page"


def test_every_key_is_explained() -> None:
    for row in render().splitlines():
        if row.startswith("| `"):
            assert len(row.rsplit("|", 2)[1].strip()) > 5, row


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    example = PAGE.split("```toml\n")[1].split("```")[0]
    from flyproxy.settings import load
    (tmp_path / "f.toml").write_text(example)
    assert load(str(tmp_path / "f.toml"), {}).listeners
    assert tomllib.loads(example)


def test_every_section_is_on_the_page() -> None:
    for name, hint in field_types(Settings).items():
        heading = f"`[{name}]`" if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else f"{name}"
        assert heading in PAGE
