"""Replays every input that the fuzzer began with or ever broke something with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy._speedups import _testing_fuzz

CORPUS = Path(__file__).parent / "corpus"
SEEDS = sorted(path for path in CORPUS.rglob("*") if path.is_file())
TARGETS = sorted({path.parent.name for path in SEEDS})


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_seed_breaks_no_promise(path: Path) -> None:
    data = path.read_bytes()
    for cut in range(0, 256, 5):
        assert _testing_fuzz.run(path.parent.name, bytes([cut]) + data[1:]) == 0, f"cut byte {cut}"


@pytest.mark.parametrize("target", ["chunked", "frames", "hello", "hpack", "proxy", "request", "response"])
def test_every_target_has_seeds(target: str) -> None:
    assert target in TARGETS


@given(st.data())
@settings(derandomize=True, max_examples=1500, deadline=None)
def test_seeds_with_changed_bytes_break_no_promise(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SEEDS))
    seed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        seed[data.draw(st.integers(0,
        len(seed) - 1))] = data.draw(st.sampled_from(b"\r\n\t :;,=0fg\x00\xff") | st.integers(0, 255))
    assert _testing_fuzz.run(path.parent.name, bytes(seed)) == 0


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown target"):
        _testing_fuzz.run("nothing", b"")
