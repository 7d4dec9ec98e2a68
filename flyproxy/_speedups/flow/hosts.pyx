"""What this worker knows of other hosts, and how a connection to one begins: with our hello, and 8 bytes in answer.

A worker spreads over the ports of a host, one for each of its slots, beginning at a place that is its own, so that the
other host's cores share the work.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from flyproxy._speedups.flow.conns cimport conn_close, conn_open
from flyproxy._speedups.flow.ids cimport random_bytes
from flyproxy._speedups.flow.wire cimport wire_distrusted, wire_recv, wire_secure, wire_send
from flyproxy._speedups.flow.worker cimport XF_DELIVERY, Conn, Exchange, HostLink, Transport, Worker
from flyproxy._speedups.mem.buf cimport buf_give, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_IN
from flyproxy._speedups.net.sockets cimport Endpoint, sock_connect
from flyproxy._speedups.proto.hello cimport (
    HELLO_ANSWER, HELLO_MAX, Hello, HelloAnswer, hello_answer_parse, hello_write,
)
from flyproxy._speedups.shm.closeness cimport HS_VIA, host_state, host_via, host_word
from flyproxy._speedups.shm.counters cimport HELLO_TLS
from flyproxy._speedups.shm.table cimport THost, TMachine, table_host


# -- where to

cdef HostLink *host_link(Worker *w, const THost *h) noexcept nogil:
    cdef HostLink *link = &w.host_links[h.slot]
    cdef Transport *t
    if link.generation != h.generation:
        # Another host has the slot now: what leads to the former one ends by itself.
        t = link.transports
        while t != NULL:
            t.going = 1
            t = t.sibling
        link.generation = h.generation
        link.transports = NULL
        link.epoch = 0
        link.rest_until_ms = 0
    return link


cdef const THost *host_towards(Worker *w, Exchange *x, const TMachine *m, int *hops) noexcept nogil:
    cdef uint64_t word = host_word(&w.shm, m.host_slot)
    hops[0] = 0
    if host_state(word) == HS_VIA and not x.flags & XF_DELIVERY:        # one third host, never two
        hops[0] = 1
        return table_host(&w.table, host_via(word))
    return table_host(&w.table, m.host_slot)


cdef uint32_t host_first_port(Worker *w) noexcept nogil:
    cdef uint32_t hash = 2166136261, i
    for i in range(w.host_n):
        hash = (hash ^ <uint8_t>w.host[i]) * 16777619
    return hash + w.shm.proc


# -- how it begins

cdef Conn *host_connect(Worker *w, const THost *h, uint32_t port, int kind) noexcept nogil:
    cdef Endpoint to
    cdef Conn *c
    cdef int fd
    memcpy(to.address, h.address, 16)
    to.port = h.ports[port]
    fd = sock_connect(&to, w.mesh_address)
    c = conn_open(w, fd, kind) if fd >= 0 else NULL
    if c != NULL and h.tls and w.tls.context != NULL and not wire_secure(w, c, h.id, h.id_n):
        conn_close(w, c)
        return NULL
    return c


cdef uint64_t host_connect_deadline(Worker *w) noexcept nogil:
    return w.reactor.now_ms + (w.config.connect_ms if w.config.connect_ms < CONNECT_MS else CONNECT_MS)


cdef uint32_t host_epoch(const HostLink *link, const THost *h) noexcept nogil:
    return link.epoch if link.epoch > h.epoch else h.epoch


cdef void host_greet(Worker *w, const THost *h, uint32_t port, Hello *hello) noexcept nogil:
    memset(hello, 0, sizeof(Hello))
    hello.dest_port = h.ports[port]
    hello.source_epoch = w.boot_epoch
    hello.dest_epoch = host_epoch(&w.host_links[h.slot], h)
    hello.time_ms = w.reactor.wall_us / 1000
    memcpy(&hello.nonce, random_bytes(w, 8), 8)
    hello.source_n = w.host_n
    memcpy(hello.source, w.host, w.host_n)
    hello.dest_n = h.id_n
    memcpy(hello.dest, h.id, h.id_n)


cdef int host_send_hello(Worker *w, Conn *c, const Hello *hello) noexcept nogil:
    cdef uint8_t out[HELLO_MAX]
    cdef uint32_t n = hello_write(hello, w.backhaul_key, out)
    return n != 0 and wire_send(c, <const char *>out, n) == n      # a new connection takes that much at once


cdef int host_read_answer(Worker *w, Conn *c, HelloAnswer *answer) noexcept nogil:
    cdef int64_t n
    cdef int whole
    while buf_len(&c.in_) < HELLO_ANSWER:
        if not buf_room(&w.pool, &c.in_, HELLO_ANSWER):
            return -1
        n = wire_recv(c, c.in_.data + c.in_.end, HELLO_ANSWER - buf_len(&c.in_))
        if n == -EAGAIN:
            c.s.io &= ~IO_IN
            return 0
        if n <= 0:
            w.counters.hellos_refused[HELLO_TLS] += wire_distrusted(c, n)
            return -1
        c.in_.end += <uint32_t>n
    whole = hello_answer_parse(<uint8_t *>c.in_.data + c.in_.start, answer)
    buf_give(&w.pool, &c.in_)
    return 1 if whole else -1
