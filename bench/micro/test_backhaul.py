"""Heads between our own proxies, and hellos: pytest-benchmark over loops that run in C, so that no Python is measured.

    python -m pytest bench/micro/test_backhaul.py --benchmark-columns=min,median,stddev

A round is ROUND heads or hellos; the figures are for one round: divide by ROUND.
"""

from __future__ import annotations

from typing import Literal

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flyproxy._speedups import _testing_backhaul as backhaul
from flyproxy._speedups import _testing_proto as proto

ROUND = 1000
HEAD = proto.emit_request(
    b"GET /api/v1/items?page=2&limit=50 HTTP/1.1\r\nHost: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123\r\n\r\n"
)
HELLO = {
    "kind": 2, "hops": 1, "source": b"ams-1", "source_epoch": 1760000000, "dest": b"fra-2", "dest_epoch": 1760000123,
    "dest_port": 7001, "time_ms": 1760001000123, "nonce": 1, "app": b"db", "machine": b"d891e2f", "service_port": 5432,
    "edge_port": 5432, "request_id": b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams",
}  # fmt: skip


@pytest.mark.parametrize("what", ["parse", "text"])
def test_head_of_20_lines(benchmark: BenchmarkFixture, what: Literal["parse", "text"]) -> None:
    assert HEAD.count(b"\n") == 20 + 1  # with the empty one
    assert benchmark(backhaul.loop, what, HEAD, ROUND) > 0


def test_hello_written_read_and_checked(benchmark: BenchmarkFixture) -> None:
    header = backhaul.hello_write(HELLO, bytes(32))
    assert header is not None
    assert benchmark(backhaul.loop, "hello", header, ROUND) == len(header)
