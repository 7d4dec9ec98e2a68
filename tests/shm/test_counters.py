"""Counters and the metrics page: what workers count is what the page says, added up, and it never goes back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flyproxy._speedups import _testing_shm as door
from tests.shm.world import World

Sample = tuple[str, frozenset[tuple[str, str]]]
EDGE = {"app": "a", "region": "yyz", "host": "edge1"}
MACHINE = {"app": "a", "region": "ams", "host": "host1", "instance": "m0"}


def page(world: World) -> dict[Sample, float]:
    """{(name, labels): value} of the page, as prometheus-client's own parser reads it."""
    text = world.counters().exposition("yyz", "edge1").decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Sample, float], name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture
def counted(world: World) -> World:
    """App "a" (id 0) with machine "m0" (slot 0), counted by two workers."""
    world.app("a", hosts=["a.test"])
    world.machine("m0", "a", "ams")
    world.commit()
    one, two = world.worker(0), world.worker(1)
    one.count_edge(
        0, 1, connects=3, disconnects=2, bytes_in=100, bytes_out=1000, answers=[(200, 400), (200, 1500), (404, 10**7)]
    )
    two.count_edge(0, 1, connects=1, dropped=4, log_dropped=5, answers=[(500, 10**9), (200, 500)])
    one.count_machine(0, 1, connect_us=[300, 600], disconnects=1, answers=[(200, 250_000)])
    two.count_machine(0, 1, connect_us=[10**8], answers=[(200, 250_001)])
    two.admit("inflight", 0, 0)
    return world


class TestPage:
    def test_plain_counters_are_added_up(self, counted: World) -> None:
        samples = page(counted)
        assert value(samples, "fly_edge_tcp_connects_count", **EDGE) == 4
        assert value(samples, "fly_edge_tcp_disconnects_count", **EDGE) == 2
        assert value(samples, "fly_edge_data_in", **EDGE) == 100
        assert value(samples, "fly_edge_data_out", **EDGE) == 1000
        assert value(samples, "fly_edge_tcp_connections_drop_count", **EDGE) == 4
        assert value(samples, "flyproxy_access_log_dropped_total", app="a") == 5
        assert value(samples, "fly_app_tcp_connects_count", **MACHINE) == 3
        assert value(samples, "fly_app_tcp_disconnects_count", **MACHINE) == 1
        assert value(samples, "fly_app_concurrency", **MACHINE) == 1

    def test_answers_by_status(self, counted: World) -> None:
        samples = page(counted)
        counts = {
            status: value(samples, "fly_edge_http_responses_count", **EDGE, status=status)
            for status in ("200", "404", "500")
        }
        assert counts == {"200": 3, "404": 1, "500": 1}
        assert value(samples, "fly_app_http_responses_count", **MACHINE, status="200") == 2

    def test_histograms_are_cumulative_and_bounds_include_their_value(self, counted: World) -> None:
        samples = page(counted)

        def buckets(name: str, **labels: str) -> dict[str, float | None]:
            return {
                le: value(samples, f"{name}_bucket", **labels, le=le)
                for le in ("0.0005", "0.001", "0.002", "0.25", "10.0", "+Inf")
            }

        time_name = "fly_edge_http_response_time_seconds"
        assert list(buckets(time_name, **EDGE, status="200").values()) == [2, 2, 3, 3, 3, 3]
        assert list(buckets(time_name, **EDGE, status="404").values()) == [0, 0, 0, 0, 1, 1]
        assert list(buckets(time_name, **EDGE, status="500").values()) == [0, 0, 0, 0, 0, 1]
        assert value(samples, f"{time_name}_sum", **EDGE, status="200") == 0.0024
        assert value(samples, f"{time_name}_count", **EDGE, status="200") == 3
        assert list(buckets("fly_app_http_response_time_seconds", **MACHINE, status="200").values()) == [
            0,
            0,
            0,
            1,
            2,
            2,
        ]
        assert list(buckets("fly_app_connect_time_seconds", **MACHINE).values()) == [1, 2, 2, 2, 2, 3]
        assert value(samples, "fly_app_connect_time_seconds_sum", **MACHINE) == 100.0009

    def test_each_family_has_one_type_line_and_its_samples_together(self, counted: World) -> None:
        text = counted.counters().exposition("yyz", "edge1").decode()
        types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
        assert types == {
            "fly_edge_http_responses_count": "untyped",
            "fly_edge_http_response_time_seconds": "histogram",
            "fly_edge_tcp_connects_count": "untyped",
            "fly_edge_tcp_disconnects_count": "untyped",
            "fly_edge_data_in": "untyped",
            "fly_edge_data_out": "untyped",
            "fly_edge_tcp_connections_drop_count": "untyped",
            "flyproxy_access_log_dropped_total": "counter",
            "fly_app_concurrency": "gauge",
            "fly_app_http_responses_count": "untyped",
            "fly_app_http_response_time_seconds": "histogram",
            "fly_app_connect_time_seconds": "histogram",
            "fly_app_tcp_connects_count": "untyped",
            "fly_app_tcp_disconnects_count": "untyped",
        }
        assert len([line for line in text.splitlines() if line.startswith("# TYPE")]) == len(types)
        assert text.endswith("\n")

    def test_nothing_counted_is_an_empty_page(self, world: World) -> None:
        world.app("a")
        world.commit()
        assert world.counters().exposition("yyz", "edge1") == b""

    def test_label_values_are_escaped(self, world: World) -> None:
        world.app('we"ird\\na\nme')
        world.commit()
        world.worker().count_edge(0, 1, connects=1)
        samples = page(world)
        assert value(samples, "fly_edge_tcp_connects_count", app='we"ird\\na\nme', region="yyz", host="edge1") == 1

    def test_more_statuses_than_a_series_holds_become_other(self, world: World) -> None:
        world.app("a")
        world.commit()
        one, two = world.worker(0), world.worker(1)
        one.count_edge(0, 1, answers=[(200 + i, 1) for i in range(20)])
        two.count_edge(0, 1, answers=[(219 - i, 1) for i in range(20)])
        samples = page(world)
        counts = {
            dict(labels)["status"]: int(number)
            for (name, labels), number in samples.items()
            if name == "fly_edge_http_responses_count"
        }
        assert sum(counts.values()) == 40
        assert counts["other"] == 18
        assert counts["200"] == 1
        assert counts["210"] == 2


class TestLife:
    def test_counters_go_on_over_the_death_of_a_worker(self, counted: World) -> None:
        before = page(counted)
        counted.root.reclaim_proc(0)
        counted.root.reclaim_proc(1)
        samples = page(counted)
        assert value(samples, "fly_app_concurrency", **MACHINE) == 0
        assert all(samples[key] >= number for key, number in before.items() if key[0] != "fly_app_concurrency")
        counted.worker(0).count_edge(0, 1, connects=1)
        assert value(page(counted), "fly_edge_tcp_connects_count", **EDGE) == 5

    def test_counters_go_on_over_a_restart_of_the_writer(self, counted: World) -> None:
        before = page(counted)
        counted.writer = counted.new_writer()
        counted.app("a", hosts=["a.test"])
        counted.machine("m0", "a", "ams")
        counted.commit()
        assert page(counted) == before

    def test_counters_of_a_removed_app_and_machine_vanish(self, counted: World) -> None:
        counted.writer.remove_machine("m0")
        counted.commit()
        samples = page(counted)
        assert not any(name.startswith("fly_app") for name, _ in samples)
        assert value(samples, "fly_edge_tcp_connects_count", **EDGE) == 4
        counted.writer.remove_hostname("a.test")
        counted.writer.remove_app("a")
        counted.commit()
        assert page(counted) == {}

    def test_the_next_owner_of_an_id_starts_at_zero(self, counted: World) -> None:
        counted.writer.remove_machine("m0")
        counted.writer.remove_hostname("a.test")
        counted.writer.remove_app("a")
        counted.commit()
        counted.app("b")
        counted.commit()
        assert page(counted) == {}
        counted.worker(0).count_edge(0, 2, connects=1)
        assert value(page(counted), "fly_edge_tcp_connects_count", app="b", region="yyz", host="edge1") == 1

    def test_ids_out_of_range_count_in_the_overflow_series(self, counted: World) -> None:
        worker = counted.worker(0)
        worker.count_edge(1 << 30, 1, connects=7)
        worker.count_machine(1 << 30, 1, connect_us=[5])
        samples = page(counted)
        other = {"app": "_other", "region": "yyz", "host": "edge1"}
        assert value(samples, "fly_edge_tcp_connects_count", **other) == 7
        assert value(samples, "fly_app_tcp_connects_count", **other, instance="") == 1
        assert counted.counters().worker_totals()["limits"]["series"] == 2

    def test_a_used_up_pool_counts_in_the_overflow_series(self, make_world: Callable[..., World]) -> None:
        world = make_world(machines=70_000)
        worker = world.worker()
        for slot in range(65_535):
            worker.count_machine(slot, 1)
        assert world.counters().worker_totals()["limits"]["series"] == 0
        worker.count_machine(65_535, 1, connect_us=[1])
        assert world.counters().worker_totals()["limits"]["series"] == 1
        assert (
            value(page(world), "fly_app_tcp_connects_count", app="_other", region="yyz", host="edge1", instance="") == 1
        )


class TestWorkerTotals:
    def test_everything_is_named_and_added_up(self, world: World) -> None:
        one, two = world.worker(0), world.worker(1)
        one.count_worker(requests=5, accepted=1, error=1, limit=0, retry=0, memory=(0, 4096), turn_us=400)
        two.count_worker(requests=7, accepted=1, error=1, limit=14, retry=3, memory=(0, 1), turn_us=20_000_000)
        totals = world.counters().worker_totals()
        assert totals["requests"] == {0: 5, 1: 7}
        assert totals["errors"]["PH01"] == 2
        assert (totals["limits"]["head"], totals["limits"]["series"], len(totals["limits"])) == (1, 1, 19)
        assert totals["retries"] == {"stale": 1, "refused": 0, "connect_timeout": 0, "reset": 1, "host": 0}
        assert totals["memory"] == {"buffers": 4097, "connections": 0, "pipes": 0, "tls": 0}
        assert totals["turn_seconds"] == pytest.approx(20.0004)
        assert list(totals["turn_buckets"].values()) == [1] * 14 + [2]
        assert list(totals["turn_buckets"])[-1] == "+Inf"

    def test_memory_of_the_dead_is_gone_and_their_counts_stay(self, world: World) -> None:
        world.worker(0).count_worker(requests=5, accepted=1, memory=(0, 4096))
        world.root.reclaim_proc(0)
        totals = world.counters().worker_totals()
        assert totals["memory"]["buffers"] == 0
        assert totals["requests"] == {0: 5}


@pytest.mark.parametrize(("us", "bucket"), [
    (0, 0), (500, 0), (501, 1), (1000, 1), (2000, 2), (5000, 3), (10_000, 4), (25_000, 5), (50_000, 6), (100_000, 7),
    (250_000, 8), (500_000, 9), (1_000_000, 10), (2_500_000, 11), (5_000_000, 12), (10_000_000, 13), (10_000_001, 14),
    (1 << 63, 14),
])  # fmt: skip
def test_every_bound_includes_its_value(us: int, bucket: int) -> None:
    assert door.bucket(us) == bucket


def test_a_page_of_a_thousand_apps_holds_up_no_commit(make_world: Callable[..., World]) -> None:
    """The page is written without the GIL and takes no lock: the writer commits while it is being written."""
    world = make_world(apps=1000)
    worker = world.worker()
    for i in range(1000):
        world.app(f"a{i}")
    world.commit()
    for i in range(1000):
        worker.count_edge(i, 1, connects=1, answers=[(200, 1000)])
    counters, deadline = world.counters(), time.monotonic() + 5
    assert counters.exposition("yyz", "h").count(b"\nfly_edge_tcp_connects_count{") == 1000
    assert time.monotonic() < deadline
