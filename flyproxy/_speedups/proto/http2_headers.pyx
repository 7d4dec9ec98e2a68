# A block is read when all of it has come: the caller's buffer holds it until then, and two limits, on its bytes and
# on its frames, bound what that costs. Every block is decoded, even for a stream that is gone: the table must stay in
# step.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy
from flyproxy._speedups.proto.hpack cimport HPACK_MEMORY, HPACK_OK, HpackOut, hpack_decode
from flyproxy._speedups.proto.head cimport HEADERS_CAP
from flyproxy._speedups.proto.http2_connection cimport http2_fail
from flyproxy._speedups.proto.http2_faults cimport fault_gone, fault_id, fault_stream, fault_verdict
from flyproxy._speedups.proto.http2_frames cimport (
    FF_END_HEADERS, FF_END_STREAM, FF_PADDED, FF_PRIORITY, FT_CONTINUATION, frame_head,
)
from flyproxy._speedups.proto.http2_head cimport head_request, head_response, head_trailers
from flyproxy._speedups.proto.http2_states cimport IN_HEADERS, IN_HEADERS_END, V_OK, stream_step
from flyproxy._speedups.proto.http2_streams cimport stream_find, stream_is_peers, stream_open
from flyproxy._speedups.proto.http2_types cimport (
    COMPRESSION_ERROR, ENHANCE_YOUR_CALM, EV_REQUEST, EV_RESPONSE, EV_TRAILERS, FRAME_SIZE_ERROR, H2_BLOCK_MAX,
    H2_CONTINUATIONS, H2_FRAME_HEAD, H2_FRAME_MAX, H2_FRAME_TRUSTED, INTERNAL_ERROR, PROTOCOL_ERROR, REFUSED_STREAM,
    SF_ANNOUNCED, SF_FINAL, SF_HEAD, SF_TUNNEL, H2Stream,
)

cdef struct Block:
    const uint8_t *p            # of one frame, or joined in the arena
    uint32_t n
    uint32_t used               # bytes behind the head of the HEADERS frame, once the block is whole
    uint32_t error              # H2Code
    bint whole


# 6.2: the fragment of a HEADERS frame between its prefix and its padding; the payload is there.
cdef void take_fragment(const Frame *f, Block *b) noexcept nogil:
    cdef uint32_t at = 0, padding = 0
    if f.flags & FF_PADDED:
        padding = f.payload[0] if f.length else 0
        at = 1
    if f.flags & FF_PRIORITY:
        at += 5
    if f.length < at:
        b.error = FRAME_SIZE_ERROR
    elif f.length - at < padding:
        b.error = PROTOCOL_ERROR
    else:
        b.p = f.payload + at
        b.n = f.length - at - padding


# The frames that continue the block, up to the one that ends it: their number of bytes, checked frame by frame.
cdef void find_end(const Frame *f, uint32_t have, bint trusted, Block *b) noexcept nogil:
    cdef uint32_t at = f.length, frames = 0, total = b.n
    cdef Frame next
    while True:
        if have - at < H2_FRAME_HEAD:
            return
        next = frame_head(f.payload + at)
        frames += 1
        total += next.length
        if next.type != FT_CONTINUATION or next.stream != f.stream:
            b.error = PROTOCOL_ERROR
        elif next.length > (H2_FRAME_TRUSTED if trusted else H2_FRAME_MAX):
            b.error = FRAME_SIZE_ERROR
        elif frames > H2_CONTINUATIONS or total > H2_BLOCK_MAX:
            b.error = ENHANCE_YOUR_CALM
        if b.error or have - at - H2_FRAME_HEAD < next.length:
            return
        at += H2_FRAME_HEAD + next.length
        if next.flags & FF_END_HEADERS:
            b.used = at
            b.whole = True
            return


cdef void join(const Frame *f, Block *b, H2Io *io) noexcept nogil:
    cdef char *out = io.arena + io.arena_cap - H2_BLOCK_MAX
    cdef uint32_t at = f.length
    cdef Frame next
    memcpy(out, b.p, b.n)
    while at < b.used:
        next = frame_head(f.payload + at)
        memcpy(out + b.n, next.payload, next.length)
        b.n += next.length
        at += H2_FRAME_HEAD + next.length
    b.p = <const uint8_t *>(io.arena + io.arena_cap - H2_BLOCK_MAX)


# 5.1.1, 5.1.2: a request opens a stream, unless there are too many or we are going away.
cdef void open_request(Http2 *c, uint32_t id, bint end, HpackOut *block, H2Io *io, H2Event *ev) noexcept nogil:
    cdef H2Stream *stream
    cdef int result
    c.last_peer = id
    if c.peer_count >= c.config.streams:
        fault_id(c, id, REFUSED_STREAM, io, ev)
        return
    result = head_request(block, c.config, end, io.request)
    if result < 0:
        fault_id(c, id, PROTOCOL_ERROR, io, ev)
        return
    stream = stream_open(c, id)
    if stream == NULL:
        fault_id(c, id, REFUSED_STREAM, io, ev)
        return
    stream_step(&stream.state, IN_HEADERS_END if end else IN_HEADERS)
    stream.flags = SF_ANNOUNCED
    stream.expected = io.request.content_length
    ev.type = EV_REQUEST
    ev.error = <unsigned short>result
    ev.stream = stream
    ev.end = end


cdef void take_trailers(Http2 *c, H2Stream *stream, bint end, HpackOut *block, H2Io *io, H2Event *ev) noexcept nogil:
    if not end or block.overflow or stream.expected > 0 or head_trailers(block.fields, block.nfields) < 0:
        fault_stream(c, stream, PROTOCOL_ERROR, io, ev)
        return
    ev.type = EV_TRAILERS
    ev.stream = stream
    ev.nfields = <unsigned short>block.nfields
    ev.end = 1


cdef void take_response(Http2 *c, H2Stream *stream, bint end, HpackOut *block, H2Io *io, H2Event *ev) noexcept nogil:
    if head_response(block, stream.flags, end, io.response) < 0:
        fault_stream(c, stream, PROTOCOL_ERROR, io, ev)
        return
    if io.response.status >= 200:
        stream.flags |= SF_FINAL
        if not stream.flags & (SF_HEAD | SF_TUNNEL) and io.response.status != 304:
            stream.expected = 0 if io.response.status == 204 else io.response.content_length
        elif not stream.flags & SF_TUNNEL:
            stream.expected = 0
    ev.type = EV_RESPONSE
    ev.stream = stream
    ev.end = end


cdef void deliver(Http2 *c, uint32_t id, bint end, HpackOut *block, H2Io *io, H2Event *ev) noexcept nogil:
    cdef H2Stream *stream = stream_find(c, id)
    cdef uint8_t verdict
    if stream == NULL and c.config.server and stream_is_peers(c, id) and c.last_peer < id <= c.accept_max:
        open_request(c, id, end, block, io, ev)
        return
    if stream == NULL:
        fault_gone(c, id, False, io, ev)
        return
    verdict = stream_step(&stream.state, IN_HEADERS_END if end else IN_HEADERS)
    if verdict != V_OK:
        fault_verdict(c, stream, verdict, io, ev)
    elif c.config.server or stream.flags & SF_FINAL:
        take_trailers(c, stream, end, block, io, ev)
    else:
        take_response(c, stream, end, block, io, ev)


cdef int64_t read_headers(Http2 *c, const Frame *f, uint32_t have, H2Io *io, H2Event *ev) noexcept nogil:
    cdef Block b
    cdef HpackOut block
    cdef int result
    if have < f.length:
        return -1
    b.n = b.error = 0
    b.whole = f.flags & FF_END_HEADERS
    b.used = f.length
    take_fragment(f, &b)
    if not b.error and not b.whole:
        find_end(f, have, c.config.trusted, &b)
        if b.whole:
            join(f, &b, io)
    if b.error:
        http2_fail(c, b.error, io, ev)
        return 0
    if not b.whole:
        return -1
    block.fields = io.fields
    block.arena = io.arena
    block.fields_max = c.config.headers if c.config.headers < HEADERS_CAP else HEADERS_CAP
    block.list_max = c.config.list_max
    result = hpack_decode(&c.decoder, c.pool, b.p, b.n, &block)
    if result != HPACK_OK:
        http2_fail(c, INTERNAL_ERROR if result == HPACK_MEMORY else COMPRESSION_ERROR, io, ev)
        return 0
    deliver(c, f.stream, f.flags & FF_END_STREAM, &block, io, ev)
    return b.used
