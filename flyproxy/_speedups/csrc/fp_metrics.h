/* The families that compiled code writes; bounds of the histograms, in microseconds and as Prometheus writes them in
 * seconds; the names behind the enums of shm/counters.pxd, in their order. The bounds array is padded so that a halving
 * search may look past the end. */
#ifndef FLYPROXY_METRICS_H
#define FLYPROXY_METRICS_H
#include <stdint.h>

static const uint64_t FP_BUCKETS_US[16] = {
    500, 1000, 2000, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000,
    UINT64_MAX, UINT64_MAX,
};
static const char *const FP_BUCKETS_LE[] = {
    "0.0005", "0.001", "0.002", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0",
    "+Inf",
};
/* In the order of the enum Family in shm/exposition.pyx. Counters whose names do not end in _total are "untyped",
 * because clients of the text format would rename them. */
typedef struct {
    const char *name;
    const char *type;
    const char *help;
} fp_family;
static const fp_family FP_FAMILIES[] = {
    {"fly_edge_http_responses_count", "untyped", "HTTP answers sent to clients."},
    {"fly_edge_http_response_time_seconds", "histogram", "Time from a request's head to the end of its answer."},
    {"fly_edge_tcp_connects_count", "untyped", "Client connections accepted."},
    {"fly_edge_tcp_disconnects_count", "untyped", "Client connections closed."},
    {"fly_edge_data_in", "untyped", "Bytes received from clients."},
    {"fly_edge_data_out", "untyped", "Bytes sent to clients."},
    {"fly_edge_tcp_connections_drop_count", "untyped", "Client connections refused for a limit."},
    {"flyproxy_access_log_dropped_total", "counter", "Access-log lines lost because the ring was full."},
    {"fly_app_concurrency", "gauge", "Exchanges and connections in flight to the machine."},
    {"fly_app_http_responses_count", "untyped", "HTTP answers received from the machine."},
    {"fly_app_http_response_time_seconds", "histogram", "Time from a request sent to the end of the answer."},
    {"fly_app_connect_time_seconds", "histogram", "Time to connect to the machine."},
    {"fly_app_tcp_connects_count", "untyped", "Connections opened to the machine."},
    {"fly_app_tcp_disconnects_count", "untyped", "Connections to the machine closed."},
};
static const char *const FP_LIMIT_NAMES[] = {
    "head", "headers", "target", "trailers", "chunk_extension", "pipelined", "buffer", "connections", "app_connections",
    "memory", "body_rate", "queue", "hard_limit", "files", "series", "pipes", "streams", "hellos",
    "windows",
};
static const char *const FP_RETRY_NAMES[] = {"stale", "refused", "connect_timeout", "reset", "host"};
static const char *const FP_MEMORY_NAMES[] = {"buffers", "connections", "pipes", "tls"};
static const char *const FP_HELLO_NAMES[] = {
    "silent", "malformed", "not_authentic", "wrong_host", "old_destination", "old_source", "stale", "refused", "busy",
    "tls",
};
#endif
