# One HTTP/2 connection, with another proxy or a machine: frames in and out, its streams told what came, its life
# watched.
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Conn, Transport, Worker
from flyproxy._speedups.net.reactor cimport Source

cdef int transports_init(Worker *w) noexcept nogil          # 0: out of memory
cdef void transports_clear(Worker *w) noexcept nogil
# A transport on the socket of `c`. NULL: out of memory.
cdef Transport *transport_new(Worker *w, Conn *c, int role) noexcept nogil
# Preface and SETTINGS go out; what has come is read as frames from now on.
cdef void transport_start(Worker *w, Transport *t) noexcept nogil
# Ends it and fails all its streams; `failure` (retry.pxd) is what befell those that were not sent yet.
cdef void transport_end(Worker *w, Transport *t, int failure) noexcept nogil
# Room for `room` bytes of frames in w.h2.out, then what the codec wrote taken over. 0: out of memory, or it is dead.
cdef int frames_begin(Worker *w, Transport *t, uint32_t room) noexcept nogil
cdef void frames_end(Worker *w, Transport *t) noexcept nogil
cdef void transport_mark(Worker *w, Transport *t) noexcept nogil            # it has something to send
cdef void transport_rested(Worker *w, Transport *t) noexcept nogil          # its last stream has gone
cdef void transport_woken(Worker *w, Transport *t) noexcept nogil           # its first one comes
cdef void transports_flush(Worker *w) noexcept nogil        # at the end of a turn
cdef void transports_drain(Worker *w) noexcept nogil        # those that peers opened take no more requests
cdef void transports_count(Worker *w) noexcept nogil        # into the counters
cdef int transport_on_event(void *owner, Source *source) noexcept nogil
cdef void transport_on_timeout(void *owner, Source *source) noexcept nogil
