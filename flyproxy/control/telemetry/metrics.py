"""The metrics page: a few families by prometheus-client, and behind them the per-app ones that compiled code writes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from flyproxy._speedups.shm.beat import Root
from flyproxy._speedups.shm.counters import CounterReader
from flyproxy._speedups.shm.table import TableReader
from flyproxy.control.mesh.service import Report
from flyproxy.control.telemetry.families import BY_NAME

Labels = tuple[str, ...]


class Facts(NamedTuple):
    """What control itself counts, and what the master told; taken in the loop's thread before a page is written."""

    restarts: Mapping[str, int]
    log_lines: tuple[int, int]
    probes: Mapping[str, int]
    machines: Mapping[str, int]
    quarantined: int
    mesh: Report
    certificate_expires: datetime | None = None


class Page:
    """Reads shared memory only, so it may be written in any thread."""

    def __init__(self, counters: CounterReader, root: Root, table: TableReader) -> None:
        self.counters = counters
        self.root = root
        self.table = table

    def render(self, region: str, host: str, facts: Facts) -> bytes:
        """The whole page in the Prometheus text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self, facts))
        per_app: bytes = self.counters.exposition(region, host)
        return generate_latest(registry) + per_app

    def families(self, facts: Facts) -> Iterator[Metric]:
        """The families that are not written by compiled code."""
        totals = self.counters.worker_totals()
        yield _gauge("flyproxy_connections", self._connections())
        yield _counter("flyproxy_requests_total", _by_name(totals["requests"]))
        yield _counter("flyproxy_errors_total", _by_name(totals["errors"]))
        yield _counter("flyproxy_limit_reached_total", _by_name(totals["limits"]))
        yield _counter("flyproxy_retries_total", _by_name(totals["retries"]))
        yield _counter("flyproxy_worker_restarts_total", _by_name(facts.restarts))
        yield _gauge("flyproxy_worker_memory_bytes", _by_name(totals["memory"]))
        yield _counter("flyproxy_hellos_refused_total", _by_name(totals["hellos_refused"]))
        yield _gauge("flyproxy_certificate_expires_seconds", _seconds_until(facts.certificate_expires))
        yield _gauge("flyproxy_backhaul_transports", [((), totals["transports"])])
        yield _gauge("flyproxy_backhaul_streams", [((), totals["streams"])])
        yield _histogram("flyproxy_engine_turn_seconds", totals["turn_buckets"], totals["turn_seconds"])
        yield _gauge("flyproxy_table_generation", [((), self.table.generation)])
        yield _gauge("flyproxy_table_age_seconds", self._table_age())
        yield _gauge("flyproxy_quarantined_records", [((), facts.quarantined)])
        yield _counter("flyproxy_access_log_lines_total", _by_name(dict(zip(("written", "lost"), facts.log_lines,
                                                                            strict=True))))
        yield _counter("flyproxy_health_probes_total", _by_name(facts.probes))
        yield _gauge("flyproxy_health_machines", _by_name(facts.machines))
        hosts = facts.mesh.hosts
        yield _gauge("flyproxy_host_rtt_seconds", [((h.host, h.region), h.rtt) for h in hosts if h.rtt is not None])
        yield _gauge("flyproxy_host_reachable", [((h.host, h.region), h.reachable) for h in hosts])
        yield _counter("flyproxy_probe_dropped_total", _by_name(facts.mesh.dropped))

    def _connections(self) -> Iterator[tuple[Labels, float]]:
        for proc in self.root.live():
            beat = self.root.proc(proc)
            yield ("client", str(proc)), beat.connections
            yield ("machine", str(proc)), beat.upstreams

    def _table_age(self) -> list[tuple[Labels, float]]:
        published = self.table.published_ns
        return [((), (time.monotonic_ns() - published) / 1e9)] if published else []


class _Collector:
    """What prometheus-client asks for families."""

    def __init__(self, page: Page, facts: Facts) -> None:
        self.page = page
        self.facts = facts

    def collect(self) -> Iterator[Metric]:
        return self.page.families(self.facts)


def _seconds_until(end: datetime | None) -> list[tuple[Labels, float]]:
    return [((), (end - datetime.now(UTC)).total_seconds())] if end else []


def _by_name(counts: Mapping[Any, float]) -> list[tuple[Labels, float]]:
    return [((str(name),), value) for name, value in counts.items()]


def _counter(name: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    family = BY_NAME[name]
    made = CounterMetricFamily(name.removesuffix("_total"), family.help, labels=family.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


def _gauge(name: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    family = BY_NAME[name]
    made = GaugeMetricFamily(name, family.help, labels=family.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


def _histogram(name: str, buckets: Mapping[str, int], total: float) -> Metric:
    """``buckets``: upper bound as text, the last one +Inf, to the count up to it."""
    made = HistogramMetricFamily(name, BY_NAME[name].help)
    made.add_metric((), list(buckets.items()), total)
    return made
