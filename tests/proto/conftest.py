"""Feeding a parser in every way that bytes can arrive; the test door ends each input at an unmapped page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flyproxy._speedups import _testing_proto as proto

Parser = Callable[..., tuple[int, dict[str, Any] | None]]
EVERY_BYTE = 700  # longer inputs are split at a few places only


def _splits(n: int) -> Iterator[int]:
    yield from range(1, n) if n <= EVERY_BYTE else (1, 2, 17, n // 2, n - 3, n - 1)


def feed(parse: Parser, data: bytes, **options: Any) -> tuple[int, dict[str, Any] | None]:
    """The verdict on `data`, which must not depend on where it was split in two or on arriving in single bytes."""
    whole, head = parse(data, **options)
    for k in _splits(len(data)):
        first, _ = parse(data[:k], **options)
        if first == 0:
            assert parse(data, scanned=k, **options) == (whole, head) or _later(data, k, whole)
        else:
            assert first == whole, f"split at {k}: {first} instead of {whole}"
    scanned = 0
    for n in range(1, len(data) + 1 if len(data) <= EVERY_BYTE else 0):
        result, bytewise = parse(data[:n], scanned=scanned, **options)
        if result:
            assert (result, bytewise) == (whole, head), f"at byte {n}: {result} instead of {whole}"
            return whole, head
        scanned = n
    return whole, head


def _later(data: bytes, scanned: int, whole: int) -> bool:
    """An error inside a line may be told only when the line ends."""
    return whole < 0 and b"\n" not in data[scanned:]


@pytest.fixture
def refused() -> Callable[..., None]:
    """Asserts that a request is refused with this code, however it is split."""
    def check(data: bytes, code: str, **options: Any) -> None:
        result, _ = feed(proto.parse_request, data, **options)
        assert proto.code(result) == code, f"{data[:200]!r}: {proto.code(result) or result} instead of {code}"
    return check


@pytest.fixture
def accepted() -> Callable[..., dict[str, Any]]:
    """The parsed head of a request that is taken whole, however it is split; what follows it is left alone."""
    def check(data: bytes, **options: Any) -> dict[str, Any]:
        result, head = feed(proto.parse_request, data, **options)
        assert head is not None, f"{data[:200]!r}: {proto.code(result) or result}"
        assert result == len(data)
        assert proto.parse_request(data + b"GET / HT", **options) == (result, head)
        return head
    return check


@pytest.fixture
def vm_refused() -> Callable[..., None]:
    """Asserts that a VM's answer is refused with this code, however it is split."""
    def check(data: bytes, code: str = "PU06", **options: Any) -> None:
        result, _ = feed(proto.parse_response, data, **options)
        assert proto.code(result) == code, f"{data[:200]!r}: {proto.code(result) or result} instead of {code}"
    return check


@pytest.fixture
def vm_accepted() -> Callable[..., dict[str, Any]]:
    """The parsed head of a VM's answer, however it is split."""
    def check(data: bytes, **options: Any) -> dict[str, Any]:
        result, head = feed(proto.parse_response, data, **options)
        assert head is not None, f"{data[:200]!r}: {proto.code(result) or result}"
        assert result == len(data)
        return head
    return check
