"""Writing. One gathered call per message; backpressure is what stays in ``Conn.out``, and who produces looks at it
first.
"""

from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flyproxy._speedups.flow.worker cimport IOVS, SIDE, Conn, Outbox, Worker
from flyproxy._speedups.mem.buf cimport buf_append, buf_consume, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_OUT
from flyproxy._speedups.net.sockets cimport sock_send, sock_writev
from flyproxy._speedups.proto.http1 cimport put_hex


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
    if buf_len(&to.out) == 0:
        if box.n == 1:
            sent = sock_send(to.s.fd, <char *>box.iov[0].iov_base, <uint32_t>box.iov[0].iov_len)
        else:
            sent = sock_writev(to.s.fd, box.iov, box.n)
        if sent > 0:
            to.sent += <uint64_t>sent
        if sent == <int64_t>box.bytes:
            return 0
        if sent < 0 and sent != -EAGAIN:
            return <int>-sent
        to.s.io &= ~IO_OUT
    return keep(w, to, <uint64_t>sent if sent > 0 else 0)


cdef int conn_flush(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t sent
    while buf_len(&c.out):
        if not c.s.io & IO_OUT:
            return 0
        sent = sock_send(c.s.fd, c.out.data + c.out.start, buf_len(&c.out))
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
