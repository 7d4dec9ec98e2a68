"""Writing. One gathered call per message; backpressure is what stays in ``Conn.out``, and who produces looks at it
first.
"""

from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flyproxy._speedups.flow.streams cimport is_stream, stream_write
from flyproxy._speedups.flow.wire cimport wire_send, wire_writev
from flyproxy._speedups.flow.worker cimport CF_CORKED, IOVS, SIDE, Conn, Outbox, Worker
from flyproxy._speedups.mem.buf cimport buf_append, buf_consume, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_OUT
from flyproxy._speedups.net.sockets cimport iovec
from flyproxy._speedups.proto.http1 cimport put_hex

cdef enum:
    CORK_MAX = 16 << 10         # bytes held back at most


cdef void outbox_clear(Worker *w) noexcept nogil:
    w.outbox.n = 0
    w.outbox.side_n = 0
    w.outbox.bytes = 0


cdef int outbox_add(Worker *w, const char *p, uint32_t n) noexcept nogil:
    cdef Outbox *box = &w.outbox
    if box.n == IOVS:
        return 0
    box.iov[box.n].iov_base = <void *>p
    box.iov[box.n].iov_len = n
    box.n += 1
    box.bytes += n
    return 1


cdef int outbox_add_chunk_head(Worker *w, uint32_t n) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef char *p = box.side + box.side_n
    cdef uint32_t length
    if box.side_n + 12 > SIDE:
        return 0
    length = put_hex(p, n)
    p[length] = b'\r'
    p[length + 1] = b'\n'
    box.side_n += length + 2
    return outbox_add(w, p, length + 2)


cdef int keep(Worker *w, Conn *to, uint64_t skip) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef int k
    cdef size_t n
    if not buf_room(&w.pool, &to.out, <uint32_t>(box.bytes - skip)):
        return ENOMEM
    for k in range(box.n):
        n = box.iov[k].iov_len
        if skip >= n:
            skip -= n
            continue
        if not buf_append(&w.pool, &to.out, <char *>box.iov[k].iov_base + skip, <uint32_t>(n - skip)):
            return ENOMEM
        skip = 0
    return 0


cdef int outbox_send(Worker *w, Conn *to) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef int64_t sent = 0
    if box.n == 0:
        return 0
    if is_stream(to):
        return stream_write(w, to)
    if buf_len(&to.out) == 0 and not to.flags & CF_CORKED:
        if box.n == 1:
            sent = wire_send(to, <char *>box.iov[0].iov_base, <uint32_t>box.iov[0].iov_len)
        else:
            sent = wire_writev(to, box.iov, box.n)
        if sent > 0:
            to.sent += <uint64_t>sent
        if sent == <int64_t>box.bytes:
            return 0
        if sent < 0 and sent != -EAGAIN:
            return <int>-sent
        to.s.io &= ~IO_OUT
    elif to.flags & CF_CORKED and buf_len(&to.out) + box.bytes > CORK_MAX:
        return send_corked(w, to)
    return keep(w, to, <uint64_t>sent if sent > 0 else 0)


# What was held back and the outbox in one call; order is kept.
cdef int send_corked(Worker *w, Conn *to) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef iovec[IOVS + 1] iov
    cdef uint64_t held = buf_len(&to.out)
    cdef int64_t sent
    to.flags &= ~CF_CORKED
    if held == 0:
        return outbox_send(w, to)
    if not to.s.io & IO_OUT:
        return keep(w, to, 0)
    iov[0].iov_base = to.out.data + to.out.start
    iov[0].iov_len = held
    memcpy(&iov[1], box.iov, box.n * sizeof(iovec))
    sent = wire_writev(to, iov, box.n + 1)
    if sent < 0 and sent != -EAGAIN:
        return <int>-sent
    if sent < <int64_t>(held + box.bytes):
        to.s.io &= ~IO_OUT
    if sent < 0:
        sent = 0
    to.sent += <uint64_t>sent
    buf_consume(&w.pool, &to.out, <uint32_t>(sent if <uint64_t>sent < held else held))
    if <uint64_t>sent < held:
        return keep(w, to, 0)
    return keep(w, to, <uint64_t>sent - held) if <uint64_t>sent < held + box.bytes else 0


cdef void conn_cork(Worker *w, Conn *c) noexcept nogil:
    if c.flags & CF_CORKED or is_stream(c):
        return
    c.flags |= CF_CORKED
    c.link_next = w.corked
    w.corked = c


cdef int conn_flush(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t sent
    if is_stream(c):
        return 0                # its transport takes it in its turn
    while buf_len(&c.out):
        if not c.s.io & IO_OUT:
            return 0
        sent = wire_send(c, c.out.data + c.out.start, buf_len(&c.out))
        if sent == -EAGAIN:
            c.s.io &= ~IO_OUT
            return 0
        if sent < 0:
            return <int>-sent
        c.sent += <uint64_t>sent
        if sent < buf_len(&c.out):
            c.s.io &= ~IO_OUT
        buf_consume(&w.pool, &c.out, <uint32_t>sent)
    return 0
