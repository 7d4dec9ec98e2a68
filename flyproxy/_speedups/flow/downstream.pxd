# The client's side of HTTP/1 after accept: request heads, reading ahead, the next request, the last answer.
from flyproxy._speedups.flow.worker cimport Conn, Worker
from flyproxy._speedups.net.reactor cimport Source

cdef int down_on_event(void *owner, Source *source) noexcept nogil
cdef void down_next(Worker *w, Conn *c) noexcept nogil      # the connection is free for its next request
# The last answer is written: the rest goes out, then an orderly end.
cdef void down_last(Worker *w, Conn *c) noexcept nogil
# The end of what was read from a transport: what was held back for clients goes out.
cdef void downs_uncork(Worker *w) noexcept nogil
