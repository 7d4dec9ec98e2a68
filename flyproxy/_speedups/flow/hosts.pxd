# Other hosts as one worker sees them, and the first words of a connection to one.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.flow.worker cimport Conn, Exchange, HostLink, Worker
from flyproxy._speedups.proto.hello cimport Hello, HelloAnswer
from flyproxy._speedups.shm.table cimport THost, TMachine

cdef enum:
    CONNECT_MS = 2000           # to another host, or less if the setting is

# Reset when another host has its slot.
cdef HostLink *host_link(Worker *w, const THost *h) noexcept nogil
# The newest epoch that the host was seen with.
cdef uint32_t host_epoch(const HostLink *link, const THost *h) noexcept nogil
# Who is brought a request for a machine of another host: that host (`hops` 0) or a third one (1); NULL: nobody.
cdef const THost *host_towards(Worker *w, Exchange *x, const TMachine *m, int *hops) noexcept nogil
# Where this worker begins to count among a host's ports; taken modulo their number.
cdef uint32_t host_first_port(Worker *w) noexcept nogil
# From our mesh address to its port of that index, in TLS if both have certificates; NULL: not to be reached.
cdef Conn *host_connect(Worker *w, const THost *h, uint32_t port, int kind) noexcept nogil
cdef uint64_t host_connect_deadline(Worker *w) noexcept nogil
# A hello without what is particular to its kind.
cdef void host_greet(Worker *w, const THost *h, uint32_t port, Hello *hello) noexcept nogil
cdef int host_send_hello(Worker *w, Conn *c, const Hello *hello) noexcept nogil        # 0: not possible
# 8 bytes, in pieces if they come so: 1 when `answer` is whole, 0 not yet, -1 it will never be.
cdef int host_read_answer(Worker *w, Conn *c, HelloAnswer *answer) noexcept nogil
