# Birth and death of connections, with everything that is counted for them.
from flyproxy._speedups.flow.worker cimport Conn, Worker
from flyproxy._speedups.shm.table cimport TApp

cdef Conn *conn_open(Worker *w, int fd, int kind) noexcept nogil           # NULL: out of memory; fd is closed
cdef void conn_close(Worker *w, Conn *c) noexcept nogil
cdef void conn_abort(Worker *w, Conn *c) noexcept nogil                     # close with a reset
# The connection now works for this app: one unit of BK_APP. 0: the app is at its limit.
cdef int conn_count_app(Worker *w, Conn *c, const TApp *app) noexcept nogil
