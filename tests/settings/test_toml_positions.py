"""Places in TOML: each key and value is found where it is written, however it is written."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyproxy.toml_positions import Position, TomlError, parse

TEXT = '''\
a = 1 # comment
"é".b."c d" = [ 1, { x = 2, y.z = "q" },
  [3]]
[t.u]
k = """
two lines"""

[[arr]]
n = 1
[[arr]]
n = 2
[[arr.sub]]
m = 3
[arr.one]
o = 4
'''


@pytest.mark.parametrize(("path", "key", "value"), [
    (("a",), (1, 1), (1, 5)),
    (("é",), (2, 1), (2, 1)),
    (("é", "b", "c d"), (2, 7), (2, 15)),
    (("é", "b", "c d", 0), (2, 7), (2, 17)),
    (("é", "b", "c d", 1, "x"), (2, 22), (2, 26)),
    (("é", "b", "c d", 1, "y", "z"), (2, 31), (2, 35)),
    (("é", "b", "c d", 2, 0), (2, 7), (3, 4)),
    (("t", "u"), (4, 4), (4, 1)),
    (("t", "u", "k"), (5, 1), (5, 5)),
    (("arr", 0), (8, 3), (8, 1)),
    (("arr", 1, "n"), (11, 1), (11, 5)),
    (("arr", 1, "sub", 0, "m"), (13, 1), (13, 5)),
    (("arr", 1, "one", "o"), (15, 1), (15, 5)),
    (("arr", 1, "absent", "deeper"), (10, 3), (10, 1)),
    (("absent",), (1, 1), (1, 1)),
])
def test_keys_and_values_are_found_where_they_are_written(
    path: tuple[str | int, ...], key: tuple[int, int], value: tuple[int, int]
) -> None:
    document = parse(TEXT.encode(), "f")
    assert document.values == tomllib.loads(TEXT)
    assert document.key(path) == Position(*key)
    assert document.value(path) == Position(*value)


NAMES = st.sampled_from(["a", "b-c", "é", "x y", "1"])
VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), st.text("ab\"\\é\n", max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


def written(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else quoted(value) if isinstance(value, str) else str(value)


def quoted(text: object) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in items for leaf in leaves(inner, (*path, key))]
    return [path]


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_value_of_any_document_has_its_own_place(values: dict[str, object]) -> None:
    text = "\n".join(f"{quoted(key)} = {written(value)}" for key, value in values.items())
    document = parse(text.encode(), "f")
    assert document.values == values
    places = [document.places[leaf] for leaf in leaves(values)]
    assert len(set(places)) == len(places)
    lines = text.split("\n")
    for leaf, place in zip(leaves(values), places, strict=True):
        value: object = values
        for part in leaf:
            value = value[part]  # type: ignore[index]
        assert lines[place.line - 1][place.column - 1 :].startswith(written(value))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_be_refused(data: bytes) -> None:
    try:
        parse(data, "f")
    except TomlError as error:
        assert error.problem.message
