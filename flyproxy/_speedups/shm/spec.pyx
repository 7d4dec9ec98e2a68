from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcpy, memset
from flyproxy._speedups.shm.table cimport (
    BAL_HASH_COOKIE, BAL_HASH_HEADER, BAL_HASH_IP, BAL_LEAST, CT_CONNECTIONS, CT_REQUESTS, H_HTTP, H_PG_TLS,
    H_PROXY_PROTO, H_TLS,
)
from flyproxy._speedups.shm.table_layout cimport NAME_MAX, PORTS_MAX, SERVICES_MAX

HANDLERS = {"http": H_HTTP, "tls": H_TLS, "proxy_proto": H_PROXY_PROTO, "pg_tls": H_PG_TLS}
CONCURRENCY = {"connections": CT_CONNECTIONS, "requests": CT_REQUESTS}
KEYS = {"header": BAL_HASH_HEADER, "cookie": BAL_HASH_COOKIE}


cdef number(dict record, str name, most):
    """An integer of the record; None and absent are 0."""
    value = record.get(name) or 0
    if not 0 <= value <= most:
        raise ValueError(f"{name} = {value!r} is not between 0 and {most}")
    return value


cdef one_of(dict table, str name, value):
    if value not in table:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(table)}")
    return table[value]


cdef milliseconds(dict record, str name):
    return min(int((record.get(name) or 0) * 1000), 0xFFFFFFFF)


cdef int parse_balance(dict record, TService *out) except -1:
    if one_of({"least": 0, "hash": 1}, "balance", record.get("balance") or "least") == 0:
        out.balance = BAL_LEAST
        return 0
    given = record.get("balance_key") or "ip"
    if given == "ip":
        out.balance = BAL_HASH_IP
        return 0
    kind, _, name = given.partition(":")
    out.balance = one_of(KEYS, "balance_key", kind)
    key = (name.lower() if kind == "header" else name).encode("ascii", "replace")
    if not 0 < len(key) <= NAME_MAX:
        raise ValueError(f"balance_key = {given!r}: the name has {len(key)} bytes; it must have 1 to {NAME_MAX}")
    memcpy(out.key, <const char *>key, len(key))
    out.key_n = len(key)
    return 0


cdef int parse_service(dict record, TService *out) except -1:
    out.internal_port = number(record, "internal_port", 65535)
    out.concurrency = one_of(CONCURRENCY, "concurrency", record.get("concurrency") or "connections")
    out.soft_limit = number(record, "soft_limit", 0x7FFFFFFF)
    out.hard_limit = number(record, "hard_limit", 0x7FFFFFFF)
    out.half_close = bool(record.get("half_close"))
    return parse_balance(record, out)


cdef int parse_port(dict record, uint32_t service, TPort *out) except -1:
    out.start = number(record, "start", 65535)
    out.end = number(record, "end", 65535) or out.start
    if out.start == 0 or out.end < out.start:
        raise ValueError(f"port range {out.start}-{out.end} is not within 1-65535 or ends before it starts")
    out.handlers = 0
    for handler in record.get("handlers") or ():
        out.handlers |= <uint16_t>one_of(HANDLERS, "handler", handler)
    out.force_https = bool(record.get("force_https"))
    out.pristine = bool(record.get("pristine"))
    out.h2_backend = bool(record.get("h2_backend"))
    out.proxy_version = number(record, "proxy_version", 2)
    if out.handlers & H_PROXY_PROTO and out.proxy_version == 0:
        out.proxy_version = 1       # fly.toml's default
    out.service = service
    out.idle_timeout_ms = milliseconds(record, "idle_timeout")
    out.head_timeout_ms = milliseconds(record, "headers_read_timeout")
    return 0


cdef int by_start(const void *a, const void *b) noexcept nogil:
    return <int>(<const TPort *>a).start - <int>(<const TPort *>b).start


cdef int check_ports(const Spec *spec) except -1:
    cdef uint32_t i
    for i in range(1, spec.nports):
        if spec.ports[i].start <= spec.ports[i - 1].end:
            raise ValueError(f"port {spec.ports[i].start} belongs to two port entries of the app; "
                             "each port may be named once")
    return 0


cdef int fill(list services, Spec *out) except -1:
    cdef uint32_t i
    for i, record in enumerate(services):
        parse_service(record, &out.services[i])
        out.hashes |= out.services[i].balance != BAL_LEAST
        for port in record.get("ports") or ():
            parse_port(port, i, &out.ports[out.nports])
            out.nports += 1
    if out.nports:
        qsort(out.ports, out.nports, sizeof(TPort), by_start)
    return check_ports(out)


cdef int spec_parse(list services, Spec *out) except -1:
    memset(out, 0, sizeof(Spec))
    nports = sum(len(record.get("ports") or ()) for record in services)
    if len(services) > SERVICES_MAX or nports > PORTS_MAX:
        raise ValueError(f"the app has {len(services)} services and {nports} ports; "
                         f"the most are {SERVICES_MAX} and {PORTS_MAX}")
    out.nservices = len(services)
    out.services = <TService *>calloc(max(len(services), 1), sizeof(TService))
    out.ports = <TPort *>calloc(max(nports, 1), sizeof(TPort))
    if out.services == NULL or out.ports == NULL:
        spec_free(out)
        raise MemoryError
    try:
        fill(services, out)
    except BaseException:
        spec_free(out)
        raise
    return 0


cdef void spec_free(Spec *spec) noexcept nogil:
    free(spec.ports)
    free(spec.services)
    memset(spec, 0, sizeof(Spec))
