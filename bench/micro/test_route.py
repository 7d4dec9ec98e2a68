"""Look-up of a host and choice of a machine, and the ring.

python -m pytest bench/micro/test_route.py --benchmark-columns=min,median,stddev
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.tables import Bench

CHOICES = 100_000  # of a round, in C; the figure in extra_info is nanoseconds for one


@pytest.mark.parametrize("shape", ["zipf", "uniform"])
@pytest.mark.parametrize("machines", [1_000, 100_000, 1_000_000])
def test_route_and_choose(benchmark: BenchmarkFixture, machines: int, shape: str) -> None:
    """Host to app, service, the better of two machines, admission and release; ten machines an app."""
    bench = Bench(machines)
    order = bench.order(shape, CHOICES)
    each: list[float] = []
    benchmark.pedantic(
        lambda: each.append(bench.worker.time_route(bench.hosts, order, True)), rounds=5, warmup_rounds=1
    )
    benchmark.extra_info["ns_per_choice"] = round(min(each), 1)
    bench.close()


@pytest.mark.parametrize("machines", [10, 1_000, 10_000])
def test_choose_by_hash(benchmark: BenchmarkFixture, machines: int) -> None:
    bench = Bench(machines, machines, "hash")
    each: list[float] = []
    order = bytes(4 * CHOICES)
    benchmark.pedantic(
        lambda: each.append(bench.worker.time_route(bench.hosts, order, True)), rounds=5, warmup_rounds=1
    )
    benchmark.extra_info["ns_per_choice"] = round(min(each), 1)
    bench.close()


@pytest.mark.parametrize("machines", [10, 1_000, 10_000, 100_000])
def test_ring_lookup(benchmark: BenchmarkFixture, machines: int) -> None:
    bench = Bench(machines, machines, "hash")
    each: list[float] = []
    benchmark.pedantic(
        lambda: each.append(bench.worker.time_ring("app-0.example.com", CHOICES)), rounds=5, warmup_rounds=1
    )
    benchmark.extra_info["ns_per_lookup"] = round(min(each), 1)
    bench.close()
