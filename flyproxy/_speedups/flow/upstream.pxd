# Connections to VMs: from the pool or new, and what they report.
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker
from flyproxy._speedups.net.reactor cimport Source
from flyproxy._speedups.shm.table cimport TMachine, TService

cdef void upstream_open(Worker *w, Exchange *x, const TService *s, const TMachine *m) noexcept nogil
# The exchange rides on `u`, which leads to the machine.
cdef void upstream_attach(Exchange *x, Conn *u, const TMachine *m) noexcept nogil
# One unit of BK_OPEN; 0: the machine has as many connections as it may, and the exchange must wait.
cdef int upstream_admit(Worker *w, Exchange *x, const TMachine *m) noexcept nogil
cdef void upstream_wait(Worker *w, Exchange *x, const TMachine *m) noexcept nogil
# The connect that began with this attempt has succeeded.
cdef void upstream_count_connect(Worker *w, const Exchange *x) noexcept nogil
cdef int upstream_on_event(void *owner, Source *source) noexcept nogil
cdef void upstream_on_timeout(void *owner, Source *source) noexcept nogil
