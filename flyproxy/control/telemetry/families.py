"""Every metric, once: the collector and docs/metrics.md are made from this table.

``untyped`` families and those marked per app are written by compiled code straight from shared memory; the others are
few and go through prometheus-client.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["untyped", "counter", "gauge", "histogram"]


class Family(NamedTuple):
    """One metric family; ``name`` as it stands on the page (a histogram without its suffixes)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


APP = ("app", "region", "host")
MACHINE = (*APP, "instance")

FAMILIES: tuple[Family, ...] = (
    Family("fly_edge_http_responses_count", "untyped", (*APP, "status"), "answers given to clients"),
    Family("fly_edge_http_response_time_seconds", "untyped", (*APP, "status"),
           "from a request's first byte to its answer's end; histogram"),
    Family("fly_edge_tcp_connects_count", "untyped", APP, "client connections opened"),
    Family("fly_edge_tcp_disconnects_count", "untyped", APP, "client connections ended"),
    Family("fly_edge_data_in", "untyped", APP, "bytes from clients"),
    Family("fly_edge_data_out", "untyped", APP, "bytes to clients"),
    Family("fly_edge_tcp_connections_drop_count", "untyped", APP, "client connections refused for a limit"),
    Family("fly_app_concurrency", "untyped", MACHINE, "exchanges and TCP relays in flight now"),
    Family("fly_app_http_responses_count", "untyped", (*MACHINE, "status"), "answers from the machine"),
    Family("fly_app_http_response_time_seconds", "untyped", (*MACHINE, "status"),
           "from the request sent to the machine to the end of its answer; histogram"),
    Family("fly_app_connect_time_seconds", "untyped", MACHINE, "time to connect to the machine; histogram"),
    Family("fly_app_tcp_connects_count", "untyped", MACHINE, "connections opened to the machine"),
    Family("fly_app_tcp_disconnects_count", "untyped", MACHINE, "connections to the machine ended"),
    Family("flyproxy_access_log_dropped_total", "counter", APP, "access-log lines lost because the ring was full"),
    Family("flyproxy_connections", "gauge", ("side", "worker"),
           "connections open now; side: client or machine"),
    Family("flyproxy_requests_total", "counter", ("worker",), "requests whose head was read"),
    Family("flyproxy_errors_total", "counter", ("code",), "answers and closes by the proxy itself, by error code"),
    Family("flyproxy_limit_reached_total", "counter", ("limit",),
           "times that a limit was reached: of flyproxy.toml, or streams, windows and hellos between hosts"),
    Family("flyproxy_retries_total", "counter", ("reason",), "requests sent to a machine again, by reason"),
    Family("flyproxy_worker_restarts_total", "counter", ("reason",), "unplanned restarts of processes, by reason"),
    Family("flyproxy_worker_memory_bytes", "gauge", ("kind",), "bytes held by the workers' engines, by what for"),
    Family("flyproxy_hellos_refused_total", "counter", ("reason",),
           "connections of other proxies that were refused, by reason"),
    Family("flyproxy_certificate_expires_seconds", "gauge", (),
           "until the certificate expires by which other hosts know this one; absent without one"),
    Family("flyproxy_backhaul_transports", "gauge", (), "HTTP/2 connections with other proxies, both directions"),
    Family("flyproxy_backhaul_streams", "gauge", (), "requests on them, both directions"),
    Family("flyproxy_engine_turn_seconds", "histogram", (), "work in one turn of an engine's loop, sleep not counted"),
    Family("flyproxy_table_generation", "gauge", (), "generation of the table; 0: none published yet"),
    Family("flyproxy_table_age_seconds", "gauge", (), "since the table was last changed"),
    Family("flyproxy_quarantined_records", "gauge", (), "records of the store that are not served, being bad"),
    Family("flyproxy_access_log_lines_total", "counter", ("result",),
           "access-log lines by what became of them in the sink: written or lost"),
    Family("flyproxy_health_probes_total", "counter", ("result",), "probes of health checks: passed or failed"),
    Family("flyproxy_health_machines", "gauge", ("health",), "machines of this host that have checks, by health"),
    Family("flyproxy_host_rtt_seconds", "gauge", ("host", "region"),
           "round trip to another host over the mesh as choice counts it: lossy links as longer ones"),
    Family("flyproxy_host_reachable", "gauge", ("host", "region"),
           "how another host is reached: 1 directly, 0.5 via a third host, 0 not at all"),
    Family("flyproxy_probe_dropped_total", "counter", ("reason",), "mesh probes that were not believed, by reason"),
)
BY_NAME = {family.name: family for family in FAMILIES}
