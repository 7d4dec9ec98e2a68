"""Head parsing and rewriting: pytest-benchmark over loops that run in C, so that no Python is measured.

    python -m pytest bench/micro/test_proto.py --benchmark-columns=min,median,stddev

A round is ROUND heads; the figures are for one round: divide by ROUND.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flyproxy._speedups import _testing_proto as proto

ROUND = 1000
SMALL = b"GET /plain HTTP/1.1\r\nHost: hello.localhost\r\nUser-Agent: wrk\r\n\r\n"
BROWSER = (
    b"GET /api/v1/items?page=2&limit=50 HTTP/1.1\r\nHost: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef\r\n"
    b"Upgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\nIf-None-Match: \"abc\"\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: gunicorn\r\nVary: Accept-Encoding\r\n"
    b"Content-Type: text/html; charset=utf-8\r\nContent-Length: 5120\r\nCache-Control: private\r\n"
    b"Set-Cookie: a=b; Path=/; HttpOnly\r\n\r\n"
)
CHUNKS = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(16)) + b"0\r\n\r\n"


@pytest.mark.parametrize("what", ["parse_request", "emit_request", "request"])
@pytest.mark.parametrize("data", [SMALL, BROWSER], ids=["small", "browser"])
def test_request_head(benchmark: BenchmarkFixture, what: str, data: bytes) -> None:
    assert benchmark(proto.loop, what, data, ROUND) > 0


def test_response_head(benchmark: BenchmarkFixture) -> None:
    assert benchmark(proto.loop, "response", ANSWER, ROUND) > 0


def test_chunked_body_of_16_kilobytes(benchmark: BenchmarkFixture) -> None:
    assert benchmark(proto.loop, "chunked", CHUNKS, ROUND) == 16 * 1024 * ROUND
