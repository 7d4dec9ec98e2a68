"""Text that stands for values: what is read, what is refused, and that writing is the reverse of reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyproxy import units


@pytest.mark.parametrize(("text", "seconds"), [
    ("0", 0), ("250ms", 0.25), ("10s", 10), ("1.5s", 1.5), ("5m", 300), ("2h", 7200), ("0s", 0),
])
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "1 s", "-1s", "+1s", "1S", "1d", "1m30s", "1e3s", "٣s", "1s\n", ".5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("512B", 512), ("64KiB", 65536), ("1MiB", 1 << 20), ("1GiB", 1 << 30),
])
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64KB", "64kib", "1.5KiB", "-1B", "1 KiB", "٣B", "1B\n"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_size(text)


@given(st.integers(0, 1 << 50))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    assert units.parse_size(units.show_size(size)) == size


@given(st.integers(0, 10**8))
def test_durations_are_written_as_they_are_read(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert units.parse_duration(units.show_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(("text", "address"), [
    ("127.0.0.1:80", ("127.0.0.1", 80)), ("[::]:0", ("::", 0)), ("[::ffff:1.2.3.4]:5", ("1.2.3.4", 5)),
    ("[0:0::1]:65535", ("::1", 65535)),
])
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert units.split_address(text) == address
    assert units.split_address(units.join_address(*address)) == address


def test_a_port_may_be_left_out_where_there_is_a_default() -> None:
    assert units.split_address("10.0.0.1", 7) == ("10.0.0.1", 7)
    assert units.split_address("fd00::1", 7) == ("fd00::1", 7)
    assert units.split_address("[fd00::1]", 7) == ("fd00::1", 7)
    assert units.split_address("[fd00::1]:8", 7) == ("fd00::1", 8)


@pytest.mark.parametrize("text", [
    "", ":", ":80", "1.2.3.4", "1.2.3:80", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4: 80", "[::1", "[::1]",
    "[::1]80", "::1", "[fe80::1%1]:80", "host:80", "01.2.3.4:80", "1.2.3.4:0x50", "[1.2.3.4]:x",
])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.split_address(text)


def test_addresses_have_sixteen_bytes() -> None:
    assert units.ip16("1.2.3.4").hex() == "0" * 20 + "ffff" + "01020304"
    assert units.ip16("::ffff:1.2.3.4") == units.ip16("1.2.3.4")
    assert units.ip16("fd00::1")[-1] == 1
