# Connections to VMs: from the pool or new, and what they report.
from flyproxy._speedups.flow.worker cimport Exchange, Worker
from flyproxy._speedups.net.reactor cimport Source
from flyproxy._speedups.shm.table cimport TMachine, TService

cdef void upstream_open(Worker *w, Exchange *x, const TService *s, const TMachine *m) noexcept nogil
cdef int upstream_on_event(void *owner, Source *source) noexcept nogil
cdef void upstream_on_timeout(void *owner, Source *source) noexcept nogil
