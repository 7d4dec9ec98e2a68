# A stream of a transport seen as a connection: written to by outbox_send like a socket, read from by being pushed to.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.flow.worker cimport Body, Conn, Transport, Worker
from flyproxy._speedups.net.reactor cimport Source
from flyproxy._speedups.proto.http2 cimport H2Event

# A stream on (or waiting for) a transport. NULL: out of memory.
cdef Conn *stream_open(Worker *w, Transport *t, int vm_side) noexcept nogil
# Called by conn_close: resets what is not over, gives the stream back.
cdef void stream_leave(Worker *w, Conn *v) noexcept nogil
# Its HTTP/2 side is over for us, whatever the peer thinks.
cdef void stream_release(Worker *w, Conn *v) noexcept nogil
# The outbox, in order; what the windows do not take now waits in `out`. 0, or a positive errno.
cdef int stream_write(Worker *w, Conn *v) noexcept nogil
# Nothing more comes: the last byte ends the stream, that of the outbox if there is one (`more`), which must be written
# next. Trailers that `body` (or NULL) collected go with it.
cdef void stream_end(Worker *w, Conn *v, Body *body, int more) noexcept nogil
# The request is answered; the stream goes when everything is out.
cdef void stream_last(Worker *w, Conn *v) noexcept nogil
# Gives the peer window for what was passed on, as far as the sink has taken it, and more when the reader keeps up.
cdef void stream_credit(Worker *w, Conn *v) noexcept nogil
# DATA has come.
cdef void stream_data(Worker *w, Conn *v, const H2Event *ev) noexcept nogil
# Frames of waiting data into the transport's output, in fair turns.
cdef void streams_fill(Worker *w, Transport *t) noexcept nogil
cdef int stream_on_event(void *owner, Source *source) noexcept nogil
cdef void stream_on_timeout(void *owner, Source *source) noexcept nogil

cdef inline int is_stream(const Conn *c) noexcept nogil:
    return c.carrier != NULL
