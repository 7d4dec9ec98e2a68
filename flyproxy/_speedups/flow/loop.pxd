# The engine's thread: one Worker, turn after turn, until it is told to stop.
from flyproxy._speedups.flow.worker cimport Config, Listener, Worker

cdef enum Command:
    CMD_SETTINGS = 1            # pointer: Config, taken over
    CMD_LISTENER_ADD            # pointer: Listener, taken over; number: its fd
    CMD_LISTENER_REMOVE         # number: id
    CMD_BACKHAUL                # number: our boot epoch; pointer: key (HELLO_KEY) and mesh address (16), taken over
    CMD_DRAIN
    CMD_STOP

cdef int worker_init(Worker *w) noexcept nogil      # shm is mapped, config set; 0: out of memory or descriptors
cdef void worker_run(Worker *w) noexcept nogil
cdef void worker_clear(Worker *w) noexcept nogil
# From the Python side; 0: the mailbox is full (bounded, so that a stuck engine is noticed and not buried).
cdef int worker_post(Worker *w, int command, long number, void *pointer) noexcept nogil
