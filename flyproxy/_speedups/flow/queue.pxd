# Exchanges that wait for room at a full service: one first-in-first-out queue per service, bounded in length and in
# time.
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Exchange, Worker

cdef void queue_wait(Worker *w, Exchange *x) noexcept nogil         # joins, or fails when the queue is full
cdef int queue_busy(Worker *w, uint32_t service) noexcept nogil     # others wait already: a newcomer goes behind them
cdef void queue_leave(Worker *w, Exchange *x) noexcept nogil        # no-op when it waits nowhere
cdef void queue_mark(Worker *w, uint32_t service) noexcept nogil    # room may have come for this service
cdef void queue_mark_all(Worker *w) noexcept nogil                  # woken by another worker
# Once per turn: serves the marked queues, one exchange of each in turn.
cdef void queue_run(Worker *w) noexcept nogil
cdef void queues_clear(Worker *w) noexcept nogil
