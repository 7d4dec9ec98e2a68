"""Framing of one body on its way: decoded as received, framed anew for the other side. Data is never copied here."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from flyproxy._speedups.errors cimport ERR_PP01
from flyproxy._speedups.flow.output cimport outbox_add, outbox_add_chunk_head
from flyproxy._speedups.flow.worker cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE, IOVS, SIDE, Body, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_give, buf_len, buf_take
from flyproxy._speedups.proto.chunked cimport (
    CH_DATA, CH_END, chunked_emit_trailers, chunked_step, chunked_wants_trailer,
)
from flyproxy._speedups.proto.http1 cimport Header, Slice
from flyproxy._speedups.proto.relay_head cimport relay_trailer_text


cdef void body_start(Body *b, int mode, int64_t length, int chunk) noexcept nogil:
    memset(b, 0, sizeof(Body))
    b.mode = <unsigned char>mode
    b.chunk = <unsigned char>chunk
    b.left = <uint64_t>length if mode == BODY_LENGTH else 0
    b.done = mode == BODY_NONE or (mode == BODY_LENGTH and length == 0)


cdef int add_data(Worker *w, Body *b, const char *p, uint32_t n) noexcept nogil:
    if not b.chunk:
        return outbox_add(w, p, n)
    return outbox_add_chunk_head(w, n) and outbox_add(w, p, n) and outbox_add(w, b"\r\n", 2)


cdef int room_for_piece(Worker *w) noexcept nogil:
    return w.outbox.n + 4 <= IOVS and w.outbox.side_n + 16 <= SIDE


cdef int finish_chunked(Worker *w, Body *b) noexcept nogil:
    cdef int64_t n
    b.done = 1
    if not b.chunk:
        return BODY_DONE
    outbox_add(w, b"0\r\n", 3)
    if b.trailer.data == NULL:
        outbox_add(w, b"\r\n", 2)
        return BODY_DONE
    # The trailer buffer has twice the room: the section as received, then as written anew.
    n = chunked_emit_trailers(&b.chunked, b.trailer.data + b.chunked.trailer_cap, b.chunked.trailer_n + 2)
    if n < 0:
        return <int>n
    outbox_add(w, b.trailer.data + b.chunked.trailer_cap, <uint32_t>n)
    return BODY_DONE


cdef int feed_chunked(Worker *w, Body *b, const char *p, uint32_t n, uint32_t *used, uint32_t *content) noexcept nogil:
    cdef uint32_t step_used
    cdef int step
    cdef Slice data
    cdef uint32_t cap = w.config.limits.trailers
    while True:
        if not room_for_piece(w):
            return BODY_FULL
        if chunked_wants_trailer(&b.chunked):
            if not buf_take(&w.pool, &b.trailer, 2 * cap + 8):
                return -ERR_PP01
            b.chunked.trailer = b.trailer.data
            b.chunked.trailer_cap = cap
        step = chunked_step(&b.chunked, &w.config.limits, p + used[0], n - used[0], &step_used, &data)
        if step < 0:
            return step
        used[0] += step_used
        if step == CH_DATA:
            content[0] += data.n
            add_data(w, b, data.p, data.n)
        elif step == CH_END:
            return finish_chunked(w, b)
        elif used[0] == n and not chunked_wants_trailer(&b.chunked):
            return BODY_MORE


cdef int body_feed(Worker *w, Body *b, const char *p, uint32_t n, uint32_t *used, uint32_t *content) noexcept nogil:
    cdef uint32_t take = n
    used[0] = 0
    content[0] = 0
    if b.done:
        return BODY_DONE
    if b.mode == BODY_CHUNKED:
        return feed_chunked(w, b, p, n, used, content)
    if n == 0:
        return BODY_MORE
    if not room_for_piece(w):
        return BODY_FULL
    if b.mode == BODY_LENGTH:
        if take > b.left:
            take = <uint32_t>b.left
        b.left -= take
        b.done = b.left == 0
    add_data(w, b, p, take)
    used[0] = take
    content[0] = take
    if b.done and b.chunk:
        outbox_add(w, b"0\r\n\r\n", 5)
    return BODY_DONE if b.done else BODY_MORE


cdef int body_end_of_stream(Worker *w, Body *b) noexcept nogil:
    if b.done:
        return BODY_DONE
    if b.mode != BODY_UNTIL_CLOSE:
        return BODY_MORE
    b.done = 1
    if b.chunk and buf_len(&b.trailer):         # as text, from a stream
        outbox_add(w, b"0\r\n", 3)
        outbox_add(w, b.trailer.data + b.trailer.start, buf_len(&b.trailer))
        outbox_add(w, b"\r\n", 2)
    elif b.chunk:
        outbox_add(w, b"0\r\n\r\n", 5)
    return BODY_DONE


cdef void body_trailers(Worker *w, Body *b, const Header *fields, uint32_t n) noexcept nogil:
    cdef uint32_t cap = w.config.limits.trailers
    if b.mode == BODY_UNTIL_CLOSE and b.trailer.data == NULL and buf_take(&w.pool, &b.trailer, cap):
        b.trailer.end = relay_trailer_text(fields, n, b.trailer.data, cap)


cdef void body_clear(Worker *w, Body *b) noexcept nogil:
    buf_give(&w.pool, &b.trailer)
