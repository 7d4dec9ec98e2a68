# Listening sockets: who accepts on which is said by the slot owner words in shared memory.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from flyproxy._speedups.flow.worker cimport Listener, Worker
from flyproxy._speedups.net.reactor cimport Source

# Takes fd and listener over; 0 when memory is exhausted.
cdef int listener_add(Worker *w, int fd, Listener *listener) noexcept nogil
cdef void listener_remove(Worker *w, uint32_t id) noexcept nogil
# Watches the sockets of the slots that this worker owns now, and no others.
cdef void listeners_refresh(Worker *w) noexcept nogil
cdef void listeners_clear(Worker *w) noexcept nogil
cdef int listener_on_event(void *owner, Source *source) noexcept nogil
cdef void listener_on_timeout(void *owner, Source *source) noexcept nogil
