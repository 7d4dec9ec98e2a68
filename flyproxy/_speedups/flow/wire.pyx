"""A connection's bytes, plain or in TLS. What epoll cannot know is said in its words: an end or an error that waits
behind decrypted bytes stands as IO_RDHUP, for which readers never stop before they have seen it.
"""

from libc.errno cimport EAGAIN, EPROTO
from libc.stdint cimport int64_t, uint32_t

from flyproxy._speedups.flow.worker cimport Conn, Worker
from flyproxy._speedups.net.reactor cimport IO_IN, IO_OUT, IO_RDHUP
from flyproxy._speedups.net.sockets cimport iovec, sock_shutdown_write
from flyproxy._speedups.net.tls cimport (
    tls_blocked, tls_end, tls_free, tls_handshake, tls_new, tls_over, tls_recv, tls_send, tls_writev,
)
from flyproxy._speedups.shm.counters cimport HELLO_TLS


cdef int wire_secure(Worker *w, Conn *c, const char *name, uint32_t n) noexcept nogil:
    c.tls = tls_new(&w.tls, c.s.fd, name, n)
    return c.tls != NULL


cdef int wire_ready(Worker *w, Conn *c) noexcept nogil:
    cdef int done
    if c.tls == NULL:
        return 1
    done = tls_handshake(c.tls)
    if done < 0:
        w.counters.hellos_refused[HELLO_TLS] += 1
        return -1
    if done == 0:
        c.s.io &= ~(IO_IN | IO_OUT) if tls_blocked(c.tls) else ~IO_IN
    return done


cdef int wire_distrusted(const Conn *c, int64_t error) noexcept nogil:
    return c.tls != NULL and error == -EPROTO


cdef int wire_end(Conn *c) noexcept nogil:
    if c.tls != NULL and tls_end(c.tls) == -EAGAIN:
        c.s.io &= ~IO_OUT
        return 0
    sock_shutdown_write(c.s.fd)
    return 1


cdef void wire_close(Conn *c) noexcept nogil:
    if c.tls != NULL:
        tls_free(c.tls)
        c.tls = NULL


cdef void wire_abandon(Conn *c) noexcept nogil:
    if c.tls != NULL:
        c.tls.said_end = 1


cdef int64_t secure_recv(Conn *c, char *p, uint32_t n) noexcept nogil:
    cdef int64_t got = tls_recv(c.tls, p, n)
    if tls_over(c.tls):
        c.s.io |= IO_RDHUP
    return got


cdef int64_t secure_send(Conn *c, const char *p, uint32_t n) noexcept nogil:
    return tls_send(c.tls, p, n)


cdef int64_t secure_writev(Conn *c, iovec *iov, int n) noexcept nogil:
    return tls_writev(c.tls, iov, n)
