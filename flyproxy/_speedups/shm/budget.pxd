# Budgets: who uses how much of what, over all workers of the host, without a shared read-modify-write. One cache line
# (or more) per counter, one 32-bit single-writer word per process index; the sum runs over root.live_mask.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:                      # BudgetKind
    BK_INFLIGHT = 0             # per machine slot: exchanges and TCP relays in flight
    BK_OPEN                     # per machine slot: connections open to the VM, pooled idle ones included
    BK_APP                      # per app id: client connections of the app in this proxy
    BK_PROXY                    # index 0: client connections of the proxy
    BK_COUNT

# Adds one to the own word, fences, sums; over `limit` (0: no limit): takes it back and returns 0. 1: admitted.
cdef int budget_admit(Shm *shm, int kind, uint32_t index, uint32_t limit) noexcept nogil
cdef void budget_release(Shm *shm, int kind, uint32_t index) noexcept nogil
cdef uint32_t budget_sum(Shm *shm, int kind, uint32_t index) noexcept nogil
cdef uint32_t budget_own(Shm *shm, int kind, uint32_t index) noexcept nogil
# Asks the CPU for the line that the next sum or admit needs.
cdef void budget_prefetch(Shm *shm, int kind, uint32_t index) noexcept nogil

# Waiters for a full service: a mask of waiting workers per service id. wait sets the own bit; wake takes one waiting
# worker out (next after the last one woken) and writes its eventfd; the woken worker tries all its queues. After
# setting the bit the waiter must try to admit once more (the release may have come between).
cdef void budget_wait(Shm *shm, uint32_t service) noexcept nogil
cdef void budget_wake(Shm *shm, uint32_t service) noexcept nogil

# -- the master and the writer
# Zeroes every word of a process index that nobody runs under any more.
cdef void budget_reclaim(Shm *shm, uint32_t proc) noexcept nogil
# 1 when no live process holds anything of `index` (reads no memory that was never touched).
cdef int budget_quiet(Shm *shm, int kind, uint32_t index) noexcept nogil
