# From an accepted socket to a connection that knows what it carries: limits, PROXY header, the app of its address,
# HTTP or raw bytes.
from flyproxy._speedups.flow.worker cimport Conn, Listener, Worker
from flyproxy._speedups.net.sockets cimport Endpoint

cdef void down_accepted(Worker *w, Listener *listener, int fd, const Endpoint *peer, int trusted) noexcept nogil
cdef int down_read_proxy(Worker *w, Conn *c) noexcept nogil         # in state DS_PROXY; as an event handler
