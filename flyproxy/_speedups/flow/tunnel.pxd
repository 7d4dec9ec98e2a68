# Byte relays: raw TCP services, and what follows a 101. Both ways with back-pressure and true half-close.
from libc.stdint cimport uint32_t
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker
from flyproxy._speedups.net.reactor cimport Source

# Both sockets become one tunnel. The outbox may hold bytes for the client (the head of a 101); [rest, rest+n) came
# after it from the VM.
cdef void tunnel_begin(Worker *w, Exchange *x, const char *rest, uint32_t n) noexcept nogil
# Bytes that came on a stream; `end`: the last. And a side that is lost: both are cut.
cdef void tunnel_push(Worker *w, Exchange *x, Conn *source, const char *p, uint32_t n, int end) noexcept nogil
cdef void tunnel_broken(Worker *w, Exchange *x, Conn *c) noexcept nogil
cdef int tunnel_on_event(void *owner, Source *source) noexcept nogil
cdef void tunnel_on_timeout(void *owner, Source *source) noexcept nogil
