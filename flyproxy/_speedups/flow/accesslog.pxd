# One line per exchange, final and escaped, into this worker's ring in shared memory.
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker
from flyproxy._speedups.proto.http1 cimport Slice

cdef void log_exchange(Worker *w, Exchange *x) noexcept nogil
cdef void log_refused(Worker *w, Conn *c, int error, Slice request_id) noexcept nogil      # no exchange came of it
