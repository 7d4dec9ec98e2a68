# Socket calls with plain results: >= 0, or a negative errno. Addresses are 16 bytes everywhere, IPv4 as v4-mapped
# (RFC 4291 2.5.5.2).
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef struct Endpoint:
    uint8_t address[16]
    uint16_t port

cdef int sock_accept(int listener, Endpoint *peer) noexcept nogil
# Sent bytes that the peer's kernel has not acknowledged for `ms` end the connection (tcp(7) TCP_USER_TIMEOUT).
cdef void sock_unacknowledged(int fd, unsigned int ms) noexcept nogil
cdef int sock_local(int fd, Endpoint *out) noexcept nogil
# A non-blocking socket whose connect has begun (or is done), from the address `source` (16 bytes), or NULL: any.
cdef int sock_connect(const Endpoint *to, const uint8_t *source) noexcept nogil
# The pending error of a finished connect: 0 or a positive errno.
cdef int sock_error(int fd) noexcept nogil
# Options that accepted sockets inherit: no delay, keep-alive probes, a bound on unsent bytes.
cdef void sock_prepare_listener(int fd) noexcept nogil
cdef int64_t sock_recv(int fd, char *p, uint32_t n) noexcept nogil
cdef int64_t sock_send(int fd, const char *p, uint32_t n) noexcept nogil
cdef int64_t sock_writev(int fd, iovec *iov, int n) noexcept nogil
# 1: readable bytes, end of stream or an error are already there (a pooled connection in that state is not clean).
cdef int sock_has_input(int fd) noexcept nogil
# Payload bytes that the other side's kernel has acknowledged since the connect, the SYN counted as one (TCP_INFO); also
# for a connection that has been reset. 0 when the kernel does not say.
cdef uint64_t sock_acknowledged(int fd) noexcept nogil
cdef void sock_shutdown_write(int fd) noexcept nogil
# The coming close sends a reset instead of an orderly end.
cdef void sock_reset_on_close(int fd) noexcept nogil
