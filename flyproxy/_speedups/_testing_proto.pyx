"""The test door of proto/: every codec on bytes, each input and output ending at an unmapped page. For tests only."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from flyproxy._speedups._testing_area cimport area_end, area_put, area_room
from flyproxy._speedups.errors cimport ERR_COUNT
from flyproxy._speedups.proto.address cimport address_parse_v4, address_parse_v6
from flyproxy._speedups.proto.answer cimport (
    ANSWER_MAX, AnswerEmit, answer_error as c_answer_error, answer_redirect as c_answer_redirect, error_code,
    error_status,
)
from flyproxy._speedups.proto.chunked cimport (
    CH_DATA, CH_END, CH_MORE, Chunked, chunked_emit_trailers, chunked_step, chunked_wants_trailer,
)
from flyproxy._speedups.proto.fields cimport field_accept, field_own_via
from flyproxy._speedups.proto.http1 cimport (
    HEADERS_CAP, HOST_CAP, HeadLimits, Header, RequestEmit, RequestHead, ResponseEmit, ResponseHead, Slice,
    http1_cookie,
    http1_count_pipelined, http1_emit_request, http1_emit_response, http1_header, http1_parse_request,
    http1_parse_response,
    put_decimal as c_put_decimal, put_hex as c_put_hex,
)
from flyproxy._speedups.proto.host cimport host_parse as c_host_parse
from flyproxy._speedups.proto.names cimport header_kind as c_header_kind, is_twin as c_is_twin
from flyproxy._speedups.proto.pico cimport pico_simd
from flyproxy._speedups.proto.proxy_protocol cimport (
    ProxyHeader, proxy_parse as c_proxy_parse, proxy_write as c_proxy_write, put_address,
)
from flyproxy._speedups.proto.text cimport put_base32

METHODS = ("OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT")
REQUEST_FLAGS = ("keep_alive", "chunked", "expect", "upgrade", "te_trailers", "websocket", "idempotent")
RESPONSE_FLAGS = ("keep_alive", "chunked", "until_close", "no_body", "switched")

cdef RequestHead request_head       # one at a time: these functions hold the GIL
cdef ResponseHead response_head


cdef char *input_end = area_end()
cdef char *output_end = area_end()


cdef const char *placed(bytes data) except NULL:
    return area_put(input_end, data)


cdef char *room(Py_ssize_t n) except NULL:
    return area_room(output_end, n)


cdef Slice slice_of(bytes text):
    """A view of `text`, which the caller keeps alive."""
    cdef Slice s
    s.p = text
    s.n = <uint32_t>len(text)
    return s


cdef bytes text_of(Slice s):
    return s.p[:s.n] if s.p != NULL else b""


cdef HeadLimits limits_of(dict changes):
    cdef HeadLimits limits
    limits.head = changes.pop("head", 64 << 10)
    limits.headers = changes.pop("headers", 128)
    limits.target = changes.pop("target", 16 << 10)
    limits.trailers = changes.pop("trailers", 16 << 10)
    limits.chunk_extension = changes.pop("chunk_extension", 4 << 10)
    if changes:
        raise TypeError(f"unknown limits: {', '.join(changes)}")
    return limits


cdef list headers_of(const Header *headers, uint32_t n):
    return [
        (headers[i].name[:headers[i].name_n], headers[i].value[:headers[i].value_n],
         bool(headers[i].drop)) for i in range(n)
    ]


cdef set names_of(uint32_t flags, tuple names):
    return {name for bit, name in enumerate(names) if flags >> bit & 1}


def code(int result):
    """"PH01" for a negative result of a parser, None for others."""
    return error_code(-result).decode() if result < 0 else None


def simd():
    """True when the SSE4.2 parser is in use."""
    return bool(pico_simd())


def parse_request(bytes data, *, uint32_t scanned=0, bytes via=b"flyproxy", **limits):
    """(result, head): result as in http1.pxd, head a dict when it is positive, else None."""
    cdef HeadLimits c_limits = limits_of(limits)
    cdef int64_t result = http1_parse_request(placed(data), <uint32_t>len(data), scanned, &c_limits, slice_of(via),
                                              &request_head)
    cdef RequestHead *h = &request_head
    if result <= 0:
        return result, None
    return result, {
        "method": METHODS[h.method], "method_text": text_of(h.method_text), "target": text_of(h.target),
        "minor": h.minor,
        "host": h.host[:h.host_n], "port": h.host_port, "content_length": h.content_length,
        "flags": names_of(h.flags, REQUEST_FLAGS), "upgrade": text_of(h.upgrade) if h.flags & 8 else None,
        "own_via": h.own_via, "accept": ("text", "json", "html")[h.accept],
        "headers": headers_of(h.headers, h.nheaders),
    }


def emit_request(
    bytes data, *, cap=None, bytes client_ip=b"198.51.100.7", bytes local_ip=b"203.0.113.1", bytes region=b"ams",
    bytes request_id=b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams", bytes via=b"flyproxy", bytes random=bytes(range(1, 25)),
    uint64_t start_us=1700000000123456, uint16_t port=80, bint https=False, **limits,
):
    """Head for a VM made from the head in `data`; None when it does not fit into `cap` bytes (default: the room
    promised to suffice)."""
    cdef HeadLimits c_limits = limits_of(limits)
    cdef RequestEmit emit
    cdef char *out
    cdef uint32_t n
    if len(random) != 24:
        raise ValueError("random: 24 bytes")
    cdef int64_t result = http1_parse_request(placed(data), <uint32_t>len(data), 0, &c_limits, slice_of(via),
                                              &request_head)
    if result <= 0:
        raise ValueError(f"the head does not parse: {result} {code(result)}")
    emit.client_ip = slice_of(client_ip)
    emit.local_ip = slice_of(local_ip)
    emit.region = slice_of(region)
    emit.request_id = slice_of(request_id)
    emit.via = slice_of(via)
    emit.random = random
    emit.start_us = start_us
    emit.port = port
    emit.https = https
    if cap is None:
        cap = 2 * result + 8 * request_head.nheaders + 2048
    out = room(cap)
    n = http1_emit_request(&request_head, &emit, out, cap)
    return out[:n] if n else None


def request_header(bytes data, bytes name):
    """(found, value) of the first header of this lower-case name."""
    if parse_request(data)[0] <= 0:
        raise ValueError("the head does not parse")
    cdef Slice s = http1_header(&request_head, name, <uint32_t>len(name))
    return s.p != NULL, text_of(s)


def request_cookie(bytes data, bytes name):
    """(found, value) of the first cookie of this name."""
    if parse_request(data)[0] <= 0:
        raise ValueError("the head does not parse")
    cdef Slice s = http1_cookie(&request_head, name, <uint32_t>len(name))
    return s.p != NULL, text_of(s)


def count_pipelined(bytes data, uint32_t scanned=0):
    """(heads, scanned)."""
    cdef uint32_t heads = http1_count_pipelined(placed(data), <uint32_t>len(data), &scanned)
    return heads, scanned


def parse_response(bytes data, *, str method="GET", bint upgrade=False, uint32_t scanned=0, **limits):
    """(result, head): result as in http1.pxd, head a dict when it is positive, else None."""
    cdef HeadLimits c_limits = limits_of(limits)
    cdef ResponseHead *h = &response_head
    cdef int64_t result = http1_parse_response(
        placed(data), <uint32_t>len(data), scanned, &c_limits, METHODS.index(method), upgrade, h)
    if result <= 0:
        return result, None
    return result, {
        "status": h.status, "reason": text_of(h.reason), "minor": h.minor, "content_length": h.content_length,
        "flags": names_of(h.flags, RESPONSE_FLAGS), "proxy_error": bool(h.proxy_error),
        "headers": headers_of(h.headers, h.nheaders),
    }


def emit_response(
    bytes data, *, str method="GET", bint upgrade=False, cap=None, bytes request_id=b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams",
    bytes server=b"flyproxy", bytes via=b"flyproxy", bint pristine=False, int client_minor=1, bint close=False,
    bint chunked=False,
):
    """Head for a client made from the head in `data`; None when it does not fit into `cap` bytes."""
    cdef ResponseEmit emit
    cdef char *out
    cdef uint32_t n
    result, _ = parse_response(data, method=method, upgrade=upgrade)
    if result <= 0:
        raise ValueError(f"the head does not parse: {result} {code(result)}")
    emit.request_id = slice_of(request_id)
    emit.server = slice_of(server)
    emit.via = slice_of(via)
    emit.pristine = pristine
    emit.client_minor = client_minor
    emit.close = close
    emit.chunked = chunked
    if cap is None:
        cap = result + 8 * response_head.nheaders + 2048
    out = room(cap)
    n = http1_emit_response(&response_head, &emit, out, cap)
    return out[:n] if n else None


def decode_chunked(pieces, *, bint give_trailer=True, **limits):
    """Feeds pieces one after the other: a dict with result ("more", "end" or a code), body, used (bytes in all),
    trailer (raw section), emitted (as written for the next hop) and wants_trailer."""
    cdef HeadLimits c_limits = limits_of(limits)
    cdef Chunked c
    cdef Slice data
    cdef uint32_t used
    cdef int step = CH_MORE
    cdef const char *p
    cdef char *out
    cdef int64_t n
    cdef bytes piece, whole
    cdef bytearray trailer = bytearray(c_limits.trailers)
    body, total, emitted = bytearray(), 0, None
    memset(&c, 0, sizeof(c))
    for piece in pieces:
        while True:
            p = placed(piece)
            step = chunked_step(&c, &c_limits, p, <uint32_t>len(piece), &used, &data)
            if step == CH_DATA:
                body += data.p[:data.n]
            if used > len(piece):
                raise AssertionError("used more than there was")
            piece = piece[used:]
            total += used
            if chunked_wants_trailer(&c) and give_trailer:
                c.trailer = trailer
                c.trailer_cap = c_limits.trailers
            elif step < 0 or step == CH_END or used == 0 or not piece:
                break
        if step < 0 or step == CH_END:
            break
    if c.total != <uint64_t>len(body):
        raise AssertionError("total is not the length of the body")
    if step == CH_END:
        whole = bytes(trailer[:c.trailer_n])
        if c.trailer_n:
            c.trailer = <char *>placed(whole)
        out = room(c.trailer_n + 2)
        n = chunked_emit_trailers(&c, out, c.trailer_n + 2)
        emitted = out[:n]
        if chunked_emit_trailers(&c, out, c.trailer_n + 1) >= 0:
            raise AssertionError("wrote into too little room")
    return {
        "result": {CH_MORE: "more", CH_DATA: "more",
                   CH_END: "end"}.get(step) or code(step), "body": bytes(body), "used": total,
        "trailer": bytes(trailer[:c.trailer_n]), "emitted": emitted, "wants_trailer": bool(chunked_wants_trailer(&c)),
    }


def proxy_parse(bytes data):
    """(result, header): header is (version, known, source, source_port, dest, dest_port) when result is positive."""
    cdef ProxyHeader h
    cdef int64_t result = c_proxy_parse(<const uint8_t *>placed(data), <uint32_t>len(data), &h)
    if result <= 0:
        return result, None
    return result, (h.version, bool(h.known), h.source[:16], h.source_port, h.dest[:16], h.dest_port)


def proxy_write(uint8_t version, bytes source, uint16_t source_port, bytes dest, uint16_t dest_port):
    """A PROXY header for two addresses of 16 bytes."""
    cdef char *out = room(107 if version == 1 else 52)
    cdef uint32_t n = c_proxy_write(version, source, source_port, dest, dest_port, <uint8_t *>out)
    return out[:n]


def address_text(bytes address):
    """Text of a 16-byte address."""
    cdef char *out = room(46)
    return out[:put_address(address, out)]


def parse_address(bytes text):
    """16 bytes, or None."""
    cdef uint8_t out[16]
    cdef const char *p = placed(text)
    if address_parse_v4(p, <uint32_t>len(text), out) or address_parse_v6(p, <uint32_t>len(text), out):
        return (<char *>out)[:16]
    return None


def host_parse(bytes text):
    """(host, port), or None."""
    cdef char *out = room(HOST_CAP)
    cdef uint8_t n
    cdef uint16_t port
    if not c_host_parse(placed(text), <uint32_t>len(text), out, &n, &port):
        return None
    return out[:n], port


def header_kind(bytes name):
    """Number of a known header, 0 for others."""
    return c_header_kind(placed(name), <uint32_t>len(name))


def is_twin(bytes name):
    """True when the name is dropped for its underscores."""
    return bool(c_is_twin(placed(name), <uint32_t>len(name)))


def accept_kind(bytes value):
    """"text", "json" or "html"."""
    return ("text", "json", "html")[field_accept(placed(value), <uint32_t>len(value))]


def own_via(bytes value, bytes via=b"flyproxy"):
    """Elements of a Via value that are ours."""
    return field_own_via(placed(value), <uint32_t>len(value), slice_of(via))


def numbers(uint64_t value):
    """(decimal, hex) as written by the engine."""
    cdef char *out = room(20)
    decimal = out[:c_put_decimal(out, value)]
    return decimal, out[:c_put_hex(out, value)]


def base32(uint64_t value):
    """The lowest 40 bits as the engine writes them into request ids."""
    cdef char *out = room(8)
    return out[:put_base32(out, value) - out]


cdef AnswerEmit answer_emit(request_id, region, server, via, now, kind, head_only, close, minor):
    cdef AnswerEmit emit
    emit.request_id = slice_of(request_id)
    emit.region = slice_of(region)
    emit.server = slice_of(server)
    emit.via = slice_of(via)
    emit.now = now
    emit.kind = ("text", "json", "html").index(kind)
    emit.head_only = head_only
    emit.close = close
    emit.minor = minor
    return emit


def error_numbers():
    """Codes in the order of ErrorCode, ERR_NONE left out, with their status."""
    return [(error_code(i).decode(), error_status(i)) for i in range(1, ERR_COUNT)]


def answer_error(
    int error, *, request_id=b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams", region=b"ams", server=b"flyproxy", via=b"flyproxy",
    now=1700000000, kind="text", head_only=False, close=False, minor=1,
):
    """The whole answer for ErrorCode `error`."""
    cdef AnswerEmit emit = answer_emit(request_id, region, server, via, now, kind, head_only, close, minor)
    cdef char *out = room(ANSWER_MAX)
    return out[:c_answer_error(error, &emit, out)]


def answer_redirect(
    bytes host, bytes target, *, uint16_t https_port=443, cap=4096, head_only=False, close=False, minor=1,
    now=1700000000,
    server=b"flyproxy", via=b"flyproxy", request_id=b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams",
):
    """The whole 301, or None when it does not fit into `cap` bytes."""
    cdef AnswerEmit emit = answer_emit(request_id, b"ams", server, via, now, "text", head_only, close, minor)
    cdef char *out = room(cap)
    cdef uint32_t n = c_answer_redirect(slice_of(host), slice_of(target), https_port, &emit, out, cap)
    return out[:n] if n else None


# -- loops for benchmarks and the instruction gate: no Python inside
cdef uint32_t loop_requests(const char *p, uint32_t n, uint32_t times, bint emit, HeadLimits *limits, RequestEmit *ours,
                            char *out,
                            uint32_t cap) noexcept nogil:
    cdef uint32_t _turn, written = 0
    for _turn in range(times):
        if http1_parse_request(p, n, 0, limits, ours.via, &request_head) <= 0:
            return 0
        written = http1_emit_request(&request_head, ours, out, cap) if emit else 1
    return written


cdef uint32_t loop_emits(uint32_t times, RequestEmit *ours, char *out, uint32_t cap) noexcept nogil:
    cdef uint32_t _turn, written = 0
    for _turn in range(times):
        written = http1_emit_request(&request_head, ours, out, cap)
    return written


cdef uint32_t loop_responses(const char *p, uint32_t n, uint32_t times, HeadLimits *limits, ResponseEmit *ours,
                             char *out,
                             uint32_t cap) noexcept nogil:
    cdef uint32_t _turn, written = 0
    for _turn in range(times):
        if http1_parse_response(p, n, 0, limits, 1, 0, &response_head) <= 0:
            return 0
        written = http1_emit_response(&response_head, ours, out, cap)
    return written


cdef uint64_t loop_chunked(const char *p, uint32_t n, uint32_t times, HeadLimits *limits) noexcept nogil:
    cdef Chunked c
    cdef Slice data
    cdef uint32_t _turn, at, used
    cdef uint64_t total = 0
    cdef int step
    for _turn in range(times):
        memset(&c, 0, sizeof(c))
        at = 0
        step = CH_MORE
        while at < n and (step == CH_MORE or step == CH_DATA):
            step = chunked_step(&c, limits, p + at, n - at, &used, &data)
            at += used
        total += c.total
    return total


def loop(str what, bytes data, uint32_t times):
    """Does `what` ("parse_request", "emit_request", "request": both, "response": both, "chunked") `times` times; the
    bytes of the last head written, or decoded in all."""
    cdef HeadLimits limits = limits_of({})
    cdef RequestEmit ours
    cdef ResponseEmit theirs
    cdef const char *p = placed(data)
    cdef uint32_t n = <uint32_t>len(data)
    cdef uint32_t cap = n + 8 * HEADERS_CAP + 2048
    cdef char *out = room(cap)
    cdef uint64_t result
    ours.client_ip = slice_of(b"198.51.100.7")
    ours.local_ip = slice_of(b"203.0.113.1")
    ours.region = slice_of(b"ams")
    ours.request_id = theirs.request_id = slice_of(b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams")
    ours.via = theirs.via = theirs.server = slice_of(b"flyproxy")
    ours.random = b"abcdefghijklmnopqrstuvwx"
    ours.start_us = 1700000000123456
    ours.port = 80
    ours.https = 0
    theirs.pristine = theirs.close = theirs.chunked = 0
    theirs.client_minor = 1
    if what == "response":
        result = loop_responses(p, n, times, &limits, &theirs, out, cap)
    elif what == "chunked":
        result = loop_chunked(p, n, times, &limits)
    elif what == "emit_request":
        loop_requests(p, n, 1, False, &limits, &ours, out, cap)
        result = loop_emits(times, &ours, out, cap)
    elif what in ("request", "parse_request"):
        result = loop_requests(p, n, times, what == "request", &limits, &ours, out, cap)
    else:
        raise ValueError(f"unknown loop {what!r}")
    if result == 0:
        raise ValueError("the input does not parse")
    return result
