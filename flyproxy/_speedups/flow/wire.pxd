# Where a connection's bytes go in and out: its socket, or TLS on it. Callers see the same results.
from libc.stdint cimport int64_t, uint32_t
from flyproxy._speedups.flow.worker cimport Conn, Worker
from flyproxy._speedups.net.sockets cimport iovec, sock_recv, sock_send, sock_writev

# TLS on the connection's socket; `name`: the host that it must lead to, NULL: we are asked. 0: out of memory.
cdef int wire_secure(Worker *w, Conn *c, const char *name, uint32_t n) noexcept nogil
# The handshake, as far as it goes now. 1: done, or there is none; 0: not yet; -1: it has failed, and is counted.
cdef int wire_ready(Worker *w, Conn *c) noexcept nogil
# TLS said that the other side is not whom we want, or the other side said so of us.
cdef int wire_distrusted(const Conn *c, int64_t error) noexcept nogil
# We send no more. 0: that could not be said yet, again when the socket is writable.
cdef int wire_end(Conn *c) noexcept nogil
cdef void wire_close(Conn *c) noexcept nogil        # before its descriptor is closed
cdef void wire_abandon(Conn *c) noexcept nogil      # the close that follows shall say no end
cdef int64_t secure_recv(Conn *c, char *p, uint32_t n) noexcept nogil
cdef int64_t secure_send(Conn *c, const char *p, uint32_t n) noexcept nogil
cdef int64_t secure_writev(Conn *c, iovec *iov, int n) noexcept nogil

cdef inline int64_t wire_recv(Conn *c, char *p, uint32_t n) noexcept nogil:
    return sock_recv(c.s.fd, p, n) if c.tls == NULL else secure_recv(c, p, n)

cdef inline int64_t wire_send(Conn *c, const char *p, uint32_t n) noexcept nogil:
    return sock_send(c.s.fd, p, n) if c.tls == NULL else secure_send(c, p, n)

cdef inline int64_t wire_writev(Conn *c, iovec *iov, int n) noexcept nogil:
    return sock_writev(c.s.fd, iov, n) if c.tls == NULL else secure_writev(c, iov, n)
