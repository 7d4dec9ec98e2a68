"""The VM table: look-ups, changes, restarts and the metrics page.

python -m pytest bench/micro/test_table.py --benchmark-columns=min,median,stddev
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.tables import Bench, service

LOOKUPS = 100_000  # of a round, in C; the figure in extra_info is nanoseconds for one

MakeBench = Callable[..., Bench]


@pytest.fixture(scope="module")
def make() -> Iterator[MakeBench]:
    """Tables by their arguments, made once."""
    made: dict[tuple[object, ...], Bench] = {}

    def get(machines: int, per_app: int = 10, balance: str = "least") -> Bench:
        key = (machines, per_app, balance)
        if key not in made:
            made[key] = Bench(*key)
        made[key].worker.enter()
        return made[key]

    yield get
    for bench in made.values():
        bench.close()


@pytest.mark.parametrize("shape", ["zipf", "uniform"])
@pytest.mark.parametrize("machines", [1_000, 100_000, 1_000_000])
def test_host_lookup(benchmark: BenchmarkFixture, make: MakeBench, machines: int, shape: str) -> None:
    bench = make(machines)
    order = bench.order(shape, LOOKUPS)
    each: list[float] = []
    benchmark.pedantic(
        lambda: each.append(bench.worker.time_route(bench.hosts, order, False)), rounds=5, warmup_rounds=1
    )
    benchmark.extra_info["ns_per_lookup"] = round(min(each), 1)


@pytest.mark.parametrize("limit", [0, 100])
def test_admit_and_release(benchmark: BenchmarkFixture, make: MakeBench, limit: int) -> None:
    bench = make(1_000)
    each: list[float] = []
    benchmark.pedantic(lambda: each.append(bench.worker.time_admit(0, limit, LOOKUPS)), rounds=5, warmup_rounds=1)
    benchmark.extra_info["ns_per_pair"] = round(min(each), 1)


@pytest.mark.parametrize(("machines", "per_app", "balance"), [
    (100_000, 10, "least"), (1_000_000, 10, "least"), (10_000, 10_000, "least"), (10_000, 10_000, "hash"),
])  # fmt: skip
def test_delta(benchmark: BenchmarkFixture, make: MakeBench, machines: int, per_app: int, balance: str) -> None:
    """One machine fails or recovers: put_machine and commit."""
    bench = make(machines, per_app, balance)
    bench.worker.leave()  # an engine passes a quiescent point every turn: memory is reused
    healths = cycle(["critical", "passing"])

    def change() -> None:
        bench.put(per_app // 2, "app-0", next(healths))
        bench.commit()

    benchmark(change)


def test_new_table(benchmark: BenchmarkFixture) -> None:
    """A restarted writer: 1 000 apps, 10 000 machines, one commit."""
    made: list[Bench] = []
    benchmark.pedantic(lambda: made.append(Bench(10_000)), rounds=3)
    for bench in made:
        bench.close()


def test_reclaim_a_dead_process(benchmark: BenchmarkFixture, make: MakeBench) -> None:
    """Its words of 100 000 machines, each used."""
    bench = make(100_000)
    bench.root.claim_proc(1, 1)
    other = bench.another_worker(1)

    def use() -> None:
        if 1 not in bench.root.live():
            bench.root.claim_proc(1, 1)
        for slot in range(0, 100_000, 10):
            other.admit("inflight", slot, 0)
            other.admit("open", slot, 0)

    benchmark.pedantic(lambda: bench.root.reclaim_proc(1), setup=use, rounds=5)


@pytest.mark.parametrize("apps", [1_000, 10_000])
def test_metrics_page(benchmark: BenchmarkFixture, make: MakeBench, apps: int) -> None:
    """Each app with one status counted by two workers; no machine has a series."""
    bench = make(apps * 10)
    for proc in (2, 3):
        worker = bench.another_worker(proc)
        for id in range(apps):
            worker.count_edge(id, 1, connects=1, answers=[(200, 1000)])
    counters = bench.counters()
    page = benchmark(lambda: counters.exposition("yyz", "bench"))
    benchmark.extra_info["bytes"] = len(page)


def test_switch_to_hash(benchmark: BenchmarkFixture, make: MakeBench) -> None:
    """An app of 10 000 machines asks for a ring: all points are made and sorted."""
    bench = make(10_000, 10_000)
    bench.worker.leave()
    balances = cycle(["hash", "least"])

    def change() -> None:
        bench.writer.put_app("app-0", [service(next(balances))])
        bench.commit()

    benchmark(change)
