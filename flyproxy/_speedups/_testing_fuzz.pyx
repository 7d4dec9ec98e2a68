"""What must hold for any bytes: promises of the codecs as functions for the fuzzer and for the replay of its corpus.

The first byte of an input says where it is cut; the rest is what the peer sends. For tests only.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from flyproxy._speedups.errors cimport ERR_COUNT
from flyproxy._speedups.proto.chunked cimport (
    CH_END, CH_MORE, Chunked, chunked_emit_trailers, chunked_step, chunked_wants_trailer,
)
from flyproxy._speedups.proto.http1 cimport (
    RQ_CHUNKED, RS_CHUNKED, HeadLimits, RequestEmit, RequestHead, ResponseEmit, ResponseHead, Slice,
    http1_count_pipelined,
    http1_emit_request, http1_emit_response, http1_parse_request, http1_parse_response,
)
from flyproxy._speedups.proto.proxy_protocol cimport ProxyHeader, proxy_parse, proxy_write

cdef enum Promise:
    KEPT = 0
    RESULT_IN_RANGE             # a verdict is an error code, 0, or at most the bytes given
    SPLIT_CHANGES_NOTHING       # the verdict does not depend on where the input is cut
    ROOM_SUFFICES               # the promised room is enough for the head written anew
    REWRITTEN_IS_VALID          # what we write, we would take
    REWRITTEN_MEANS_THE_SAME    # with the same host, framing and status
    COUNT_IS_OF_WHOLE_HEADS
    TRAILERS_FIT

cdef HeadLimits limits
limits.head = 64 << 10
limits.headers = 128
limits.target = 16 << 10
limits.trailers = 1 << 10
limits.chunk_extension = 64
cdef HeadLimits wide = limits   # for heads of ours, which have more headers than the client's
wide.head = 1 << 20
wide.headers = 256

cdef RequestHead request, again
cdef ResponseHead response, answered
cdef uint8_t[24] random_bytes
memset(random_bytes, 7, sizeof(random_bytes))


cdef Slice text(const char *p, uint32_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = n
    return s


# Two calls, the second after more bytes came, must end where one call ends. An error may be told later, never else.
cdef int compare_split(int64_t whole, int64_t first, int64_t second) noexcept nogil:
    if first != 0:
        return first == whole or (first < 0 and whole < 0)
    return second == whole or (whole < 0 and second <= 0)


cdef int check_rewritten_request(int64_t used) noexcept nogil:
    cdef RequestEmit emit
    cdef uint32_t cap = <uint32_t>(2 * used + 8 * request.nheaders + 2048)
    cdef char *out = <char *>malloc(cap)
    cdef uint32_t n
    cdef int64_t result
    emit.client_ip = emit.local_ip = text(b"2001:db8::ffff", 14)
    emit.region = emit.via = text(b"flyproxy", 8)
    emit.request_id = text(b"01JABCDEFGHJKMNPQRSTVWXYZ0-ams", 30)
    emit.random = random_bytes
    emit.start_us = 1
    emit.port = 443
    emit.https = 1
    n = http1_emit_request(&request, &emit, out, cap)
    result = http1_parse_request(out, n, 0, &wide, emit.via, &again) if n else 0
    free(out)
    if n == 0:
        return ROOM_SUFFICES
    if result != n:
        return REWRITTEN_IS_VALID
    if again.content_length != request.content_length or (again.flags ^ request.flags) & RQ_CHUNKED:
        return REWRITTEN_MEANS_THE_SAME
    if request.host_n and (again.host_n != request.host_n or memcmp(again.host, request.host, request.host_n) != 0):
        return REWRITTEN_MEANS_THE_SAME
    return KEPT


cdef int fuzz_request(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef const char *p = <const char *>data + 1
    cdef Slice via = text(b"flyproxy", 8)
    cdef uint32_t cut, counted = 0
    cdef int64_t whole, first, second = 0
    if n < 1:
        return KEPT
    n -= 1
    cut = n * data[0] / 256
    first = http1_parse_request(p, cut, 0, &limits, via, &request)
    if first == 0:
        second = http1_parse_request(p, n, cut, &limits, via, &request)
    whole = http1_parse_request(p, n, 0, &limits, via, &request)
    if whole > n or whole <= -ERR_COUNT:
        return RESULT_IN_RANGE
    if not compare_split(whole, first, second):
        return SPLIT_CHANGES_NOTHING
    http1_count_pipelined(p, n, &counted)
    if counted > n:
        return COUNT_IS_OF_WHOLE_HEADS
    return check_rewritten_request(whole) if whole > 0 else KEPT


cdef int check_rewritten_response(int64_t used, uint8_t method, uint8_t upgrade) noexcept nogil:
    cdef ResponseEmit emit
    cdef uint32_t cap = <uint32_t>(2 * used + 8 * response.nheaders + 2048)
    cdef char *out = <char *>malloc(cap)
    cdef uint32_t n
    cdef int64_t result
    emit.request_id = emit.server = emit.via = text(b"flyproxy", 8)
    emit.pristine = emit.close = 0
    emit.client_minor = 1
    emit.chunked = (response.flags & RS_CHUNKED) != 0
    n = http1_emit_response(&response, &emit, out, cap)
    result = http1_parse_response(out, n, 0, &wide, method, upgrade, &answered) if n else 0
    free(out)
    if n == 0:
        return ROOM_SUFFICES
    if result != n:
        return REWRITTEN_IS_VALID
    if answered.status != response.status or answered.content_length != response.content_length:
        return REWRITTEN_MEANS_THE_SAME
    return REWRITTEN_MEANS_THE_SAME if (answered.flags ^ response.flags) & RS_CHUNKED else KEPT


cdef int fuzz_response(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef const char *p = <const char *>data + 1
    cdef uint32_t cut
    cdef uint8_t method, upgrade
    cdef int64_t whole, first, second = 0
    if n < 1:
        return KEPT
    n -= 1
    cut = n * data[0] / 256
    method = data[0] % 4        # other, GET, HEAD, POST
    upgrade = data[0] / 4 % 2
    first = http1_parse_response(p, cut, 0, &limits, method, upgrade, &response)
    if first == 0:
        second = http1_parse_response(p, n, cut, &limits, method, upgrade, &response)
    whole = http1_parse_response(p, n, 0, &limits, method, upgrade, &response)
    if whole > n or whole <= -ERR_COUNT:
        return RESULT_IN_RANGE
    if not compare_split(whole, first, second):
        return SPLIT_CHANGES_NOTHING
    return check_rewritten_response(whole, method, upgrade) if whole > 0 else KEPT


# Decodes in pieces of `step` bytes; the last result, with *used bytes taken in all.
cdef int decode(Chunked *c, const char *p, uint32_t n, uint32_t step, char *trailer, uint32_t *used) noexcept nogil:
    cdef Slice data
    cdef uint32_t at = 0, taken, end
    cdef int result = CH_MORE
    memset(c, 0, sizeof(Chunked))
    while at < n:
        end = at + step if step < n - at else n
        while at < end:
            result = chunked_step(c, &limits, p + at, end - at, &taken, &data)
            at += taken
            if result < 0 or result == CH_END:
                used[0] = at
                return result
            if chunked_wants_trailer(c):
                c.trailer = trailer
                c.trailer_cap = limits.trailers
    used[0] = at
    return CH_MORE


cdef int fuzz_chunked(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef Chunked whole, pieces
    cdef uint32_t used = 0, pieces_used = 0
    cdef int result, pieces_result, promise = KEPT
    cdef char *trailer = <char *>malloc(limits.trailers)
    cdef char *out = <char *>malloc(limits.trailers + 2)
    cdef int64_t written
    if n > 1:
        result = decode(&whole, <const char *>data + 1, n - 1, n, trailer, &used)
        pieces_result = decode(&pieces, <const char *>data + 1, n - 1, 1 + data[0] % 32, trailer, &pieces_used)
        if result != pieces_result or whole.total > n or used > n:
            promise = SPLIT_CHANGES_NOTHING
        elif result == CH_END:
            written = chunked_emit_trailers(&pieces, out, pieces.trailer_n + 2)
            if used != pieces_used or whole.total != pieces.total:
                promise = SPLIT_CHANGES_NOTHING
            elif written < 2 or written > pieces.trailer_n + 2:
                promise = TRAILERS_FIT
    free(trailer)
    free(out)
    return promise


cdef int fuzz_proxy(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef ProxyHeader header, copy
    cdef uint8_t out[107]
    cdef uint32_t cut, written
    cdef int64_t whole, first
    if n < 1:
        return KEPT
    n -= 1
    cut = n * data[0] / 256
    first = proxy_parse(data + 1, cut, &header)
    whole = proxy_parse(data + 1, n, &header)
    if whole > n or whole <= -ERR_COUNT:
        return RESULT_IN_RANGE
    if not compare_split(whole, first, whole):
        return SPLIT_CHANGES_NOTHING
    if whole <= 0 or not header.known:
        return KEPT
    written = proxy_write(header.version, header.source, header.source_port, header.dest, header.dest_port, out)
    if proxy_parse(out, written, &copy) != written:
        return REWRITTEN_IS_VALID
    return KEPT if memcmp(&header, &copy, sizeof(ProxyHeader)) == 0 else REWRITTEN_MEANS_THE_SAME


def run(str target, bytes data):
    """0 when every promise holds for these bytes; `target`: "request", "response", "chunked", "proxy". The input
    stands in a heap block of its exact size."""
    cdef uint8_t *p = <uint8_t *>malloc(len(data) or 1)
    cdef uint32_t n = <uint32_t>len(data)
    memcpy(p, <const char *>data, n)
    try:
        if target == "request":
            return fuzz_request(p, n)
        if target == "response":
            return fuzz_response(p, n)
        if target == "chunked":
            return fuzz_chunked(p, n)
        if target == "proxy":
            return fuzz_proxy(p, n)
    finally:
        free(p)
    raise ValueError(f"unknown target {target!r}")
