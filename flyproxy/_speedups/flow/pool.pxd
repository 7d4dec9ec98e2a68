# Idle connections to VMs, per machine and port, newest first. Only connections whose state is known clean come here.
from libc.stdint cimport uint16_t, uint32_t
from flyproxy._speedups.flow.worker cimport Conn, Worker

cdef int pool_setup(Worker *w, uint32_t machines) noexcept nogil
cdef Conn *pool_take(Worker *w, uint32_t machine, uint32_t generation, uint16_t port) noexcept nogil       # NULL: none
cdef void pool_give(Worker *w, Conn *u) noexcept nogil          # keeps or closes it
cdef void pool_remove(Worker *w, Conn *u) noexcept nogil        # called by conn_close
# Closes idle connections of machines that have `limit` connections or more, so that others may connect.
cdef void pool_trim(Worker *w, uint32_t machine, uint32_t limit) noexcept nogil
cdef void pool_trim_all(Worker *w) noexcept nogil
