"""HPACK and frames: pytest-benchmark over loops that run in C, so that no Python is measured.

    python -m pytest bench/micro/test_http2.py --benchmark-columns=min,median,stddev

A round is ROUND blocks or requests; the figures are for one round: divide by ROUND.
"""

from __future__ import annotations

import hpack
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flyproxy._speedups import _testing_hpack as hp
from flyproxy._speedups import _testing_http2 as h2

ROUND = 1000
PATH = b"/api/v1/items?page=2&limit=50"
BROWSER = [
    (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"www.example.com"), (b":path", PATH),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"),
    (b"accept", b"text/html,application/xhtml+xml"), (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br"), (b"cookie", b"session=0123456789abcdef"),
]
ANSWER = [
    (b":status", b"200"), (b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"5120"),
    (b"cache-control", b"private"), (b"server", b"gunicorn"), (b"vary", b"Accept-Encoding"),
]


@pytest.mark.parametrize("huffman", [False, True], ids=["plain", "huffman"])
def test_decoding_literals(benchmark: BenchmarkFixture, huffman: bool) -> None:
    block = hp.Encoder(0, huffman).encode([(name, value, "") for name, value in BROWSER])
    decoder = hp.Decoder()
    assert benchmark(decoder.loop, block[1:], ROUND) == ROUND * len(BROWSER)  # without the size update


def test_decoding_indexed_fields(benchmark: BenchmarkFixture) -> None:
    encoder, decoder = hpack.Encoder(), hp.Decoder()
    decoder.decode(encoder.encode(BROWSER))
    assert benchmark(decoder.loop, encoder.encode(BROWSER), ROUND) == ROUND * len(BROWSER)


@pytest.mark.parametrize("table", [0, 4096], ids=["static", "dynamic"])
def test_encoding_an_answer(benchmark: BenchmarkFixture, table: int) -> None:
    fields = [(name, value, "index") for name, value in ANSWER]
    assert benchmark(hp.Encoder(table).loop, fields, ROUND) > 0


def session() -> bytes:
    """Everything that a client sends for ROUND requests."""
    client = h2.Connection(False, streams=ROUND, encoder_table=4096)
    client.start()
    for _ in range(ROUND):
        assert client.request([(b"user-agent", b"h2load"), (b"accept", b"*/*")], target=PATH) is not None
    return client.take()


def test_reading_requests(benchmark: BenchmarkFixture) -> None:
    data = session()

    def read() -> tuple[int, int]:
        server = h2.Connection(True, trusted=True)
        server.start()
        return server.count(data)

    assert benchmark(read) == (ROUND + 2, len(data))  # its SETTINGS and window, too
