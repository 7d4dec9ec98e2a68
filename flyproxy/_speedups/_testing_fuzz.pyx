"""What must hold for any bytes: promises of the codecs as functions for the fuzzer and for the replay of its corpus.

The first byte of an input says where it is cut; the rest is what the peer sends. For tests only.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from flyproxy._speedups.errors cimport ERR_COUNT
from flyproxy._speedups.mem.buf cimport Pool, pool_clear, pool_init
from flyproxy._speedups.mem.slab cimport Slab, slab_clear, slab_init
from flyproxy._speedups.proto.chunked cimport (
    CH_END, CH_MORE, Chunked, chunked_emit_trailers, chunked_step, chunked_wants_trailer,
)
from flyproxy._speedups.proto.http1 cimport (
    RQ_CHUNKED, RS_CHUNKED, HeadLimits, RequestEmit, RequestHead, ResponseEmit, ResponseHead, Slice,
    http1_count_pipelined,
    http1_emit_request, http1_emit_response, http1_parse_request, http1_parse_response,
)
from flyproxy._speedups.proto.head cimport HEADERS_CAP, Header
from flyproxy._speedups.proto.hello cimport (
    HA_MALFORMED, HELLO_KEY, HELLO_MAX, Hello, hello_authentic, hello_parse, hello_write,
)
from flyproxy._speedups.proto.hpack cimport FF_INDEX, HpackOut, HpackTable, hpack_clear, hpack_decode, hpack_init
from flyproxy._speedups.proto.hpack_encode cimport hpack_begin, hpack_put, hpack_room
from flyproxy._speedups.proto.http2 cimport *
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
    NOTHING_LEAKS               # the pool and the slab get back what they lent
    OUTPUT_IS_BOUNDED           # by the room that the caller left

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

cdef enum:
    H2_OUT = 1 << 18
    H2_AREA = H2_ARENA + (1 << 17)
cdef Header[HEADERS_CAP] h2_fields, h2_again
cdef char *h2_out = <char *>malloc(H2_OUT)
cdef char *h2_arena = <char *>malloc(H2_AREA)
cdef char *h2_other = <char *>malloc(H2_AREA)


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


# A hello has one spelling: what is taken is what we would write, but for the signature.
cdef int fuzz_hello(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef Hello hello
    cdef uint8_t[HELLO_MAX] out
    cdef uint8_t[HELLO_KEY] key
    cdef int64_t whole, first
    if n < 1:
        return KEPT
    n -= 1
    memset(key, data[0], HELLO_KEY)
    first = hello_parse(data + 1, n * data[0] / 256, &hello)
    whole = hello_parse(data + 1, n, &hello)
    if whole > n or whole > HELLO_MAX or (whole < 0 and whole != -HA_MALFORMED):
        return RESULT_IN_RANGE
    if not compare_split(whole, first, whole):
        return SPLIT_CHANGES_NOTHING
    if whole <= 0:
        return KEPT
    hello_authentic(data + 1, <uint32_t>whole, key)
    if hello_write(&hello, key, out) != whole or not hello_authentic(out, <uint32_t>whole, key):
        return REWRITTEN_IS_VALID
    return KEPT if memcmp(out, data + 1, <size_t>whole - HELLO_KEY) == 0 else REWRITTEN_MEANS_THE_SAME


# What decodes is encoded by us and means the same again.
cdef int fuzz_hpack(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef Pool pool
    cdef HpackTable table, ours, theirs
    cdef HpackOut out, again
    cdef char *at
    cdef uint32_t i
    cdef int promise = KEPT
    if n < 1:
        return KEPT
    pool_init(&pool, 0)
    hpack_init(&table, 4096)
    hpack_init(&ours, 4096)
    hpack_init(&theirs, 4096)
    out.fields, again.fields = h2_fields, h2_again
    out.arena, again.arena = h2_arena, h2_other
    out.fields_max = again.fields_max = HEADERS_CAP
    out.list_max = again.list_max = 1 << 16
    ours.huffman = data[0] & 1
    if hpack_decode(&table, &pool, data + 1, n - 1, &out) == 0 and not out.overflow:
        at = hpack_begin(&ours, h2_out)
        for i in range(out.nfields):
            h2_fields[i].pad = FF_INDEX if data[0] & 2 else 0
            if at + hpack_room(&h2_fields[i]) > h2_out + H2_OUT:
                break
            at = hpack_put(&ours, &pool, &h2_fields[i], at)
        else:
            if hpack_decode(&theirs, &pool, <uint8_t *>h2_out, <uint32_t>(at - h2_out), &again) != 0:
                promise = REWRITTEN_IS_VALID
            elif again.nfields != out.nfields or again.list_n != out.list_n or theirs.size != ours.size:
                promise = REWRITTEN_MEANS_THE_SAME
    if table.size > table.size_max:
        promise = RESULT_IN_RANGE
    hpack_clear(&table, &pool)
    hpack_clear(&ours, &pool)
    hpack_clear(&theirs, &pool)
    if pool.used:
        promise = NOTHING_LEAKS
    pool_clear(&pool)
    return promise


cdef struct Digest:             # of the events of a connection
    uint64_t sum
    uint64_t bytes


cdef void digest(Digest *d, const H2Event *ev) noexcept nogil:
    cdef uint32_t i
    if ev.type == EV_NONE or ev.type == EV_BLOCKED:
        return                  # where these stand is what a cut changes
    if ev.type == EV_DATA:      # pieces differ with the cut, their bytes do not
        for i in range(ev.data.n):
            d.bytes = d.bytes * 31 + <uint8_t>ev.data.p[i]
        if not ev.end:
            return
    d.sum = (d.sum * 31 + ev.type) * 31 + ev.code + ev.end * 7 + ev.error * 13 + ev.nfields
    if ev.stream != NULL:
        d.sum = d.sum * 31 + ev.stream.id


# A caller that answers every request and releases every third stream at once.
cdef int use_event(Http2 *c, H2Io *io, const H2Event *ev) noexcept nogil:
    if ev.type == EV_REQUEST and ev.stream.id % 8 == 3:
        http2_reset(c, ev.stream, CANCEL, io)
    if ev.type == EV_DATA and ev.window:
        http2_drained(c, ev.stream, ev.window, io)
    if ev.type == EV_RESET or (ev.stream != NULL and ev.end and ev.stream.id % 3 == 0):
        http2_release(c, ev.stream)
    return KEPT


cdef int feed(Http2 *c, H2Io *io, const char *p, uint32_t n, uint32_t *used, Digest *d) noexcept nogil:
    cdef H2Event ev
    cdef int64_t step
    while True:
        step = http2_read(c, p + used[0], n - used[0], io, &ev)
        if step < 0 or step > n - used[0]:
            return RESULT_IN_RANGE
        if io.out_n > io.out_cap:
            return OUTPUT_IS_BOUNDED
        used[0] += <uint32_t>step
        digest(d, &ev)
        if ev.type == EV_BLOCKED:
            io.out_n = 0
        elif ev.type == EV_NONE or ev.type == EV_ERROR:
            return KEPT
        use_event(c, io, &ev)


cdef int run_frames(const H2Config *config, const char *p, uint32_t n, uint32_t cut, Digest *d) noexcept nogil:
    cdef Pool pool
    cdef Slab slab
    cdef Http2 c
    cdef H2Io io
    cdef uint32_t used = 0, _
    cdef int promise
    pool_init(&pool, 0)
    slab_init(&slab, sizeof(H2Stream))
    http2_init(&c, config, &pool, &slab, 0)
    memset(&io, 0, sizeof(H2Io))
    memset(d, 0, sizeof(Digest))
    io.out, io.out_cap = h2_out, H2_OUT
    io.arena, io.arena_cap = h2_arena, H2_AREA
    io.fields, io.request, io.response = h2_fields, &request, &response
    http2_start(&c, &io)
    c.preface = 24              # the fuzzer need not guess it
    for _ in range(0 if config.server else 3):
        request.nheaders = request.flags = request.upgrade.n = 0
        request.method_text = text(b"GET", 3)
        request.target = text(b"/", 1)
        request.host_n = 0
        request.method = 0
        http2_request(&c, &request, True, NULL, 0, True, &io)
    promise = feed(&c, &io, p, cut, &used, d)
    if promise == KEPT and not c.failed:
        promise = feed(&c, &io, p, n, &used, d)
    http2_clear(&c)
    if promise == KEPT and (pool.used or slab.used):
        promise = NOTHING_LEAKS
    slab_clear(&slab)
    pool_clear(&pool)
    return promise


cdef int fuzz_frames(const uint8_t *data, uint32_t n) noexcept nogil:
    cdef H2Config config
    cdef Digest whole, cut
    cdef int promise
    if n < 1:
        return KEPT
    memset(&config, 0, sizeof(H2Config))
    config.server = data[0] & 1
    config.trusted = data[0] >> 1 & 1
    config.connect_protocol = 1
    config.decoder_table = config.encoder_table = 4096
    config.streams = 5
    config.stream_window = 1000
    config.connection_window = 65535
    config.list_max = 4096
    config.headers = 32
    config.target = 256
    config.via = text(b"flyproxy", 8)
    n -= 1
    promise = run_frames(&config, <const char *>data + 1, n, n, &whole)
    if promise == KEPT:
        promise = run_frames(&config, <const char *>data + 1, n, n * data[0] / 256, &cut)
    if promise == KEPT and (whole.sum != cut.sum or whole.bytes != cut.bytes):
        return SPLIT_CHANGES_NOTHING
    return promise


def run(str target, bytes data):
    """0 when every promise holds for these bytes; `target`: "request", "response", "chunked", "proxy", "hello",
    "hpack", "frames". The input stands in a heap block of its exact size."""
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
        if target == "hello":
            return fuzz_hello(p, n)
        if target == "hpack":
            return fuzz_hpack(p, n)
        if target == "frames":
            return fuzz_frames(p, n)
    finally:
        free(p)
    raise ValueError(f"unknown target {target!r}")
