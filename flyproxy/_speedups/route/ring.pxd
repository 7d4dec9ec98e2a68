# Looking up a key on a consistent-hash ring.
#
# A key looks at PROBES places of the ring and takes the nearest point after any of them (multi-probe consistent
# hashing, Appleton and O'Reilly 2015). With MACHINE_POINTS (4) points a machine that spreads keys as evenly as 100
# points without probing, and a machine that comes or goes moves 4 words in a small array: a machine of n takes or gives
# up only its own keys, about 1/n of all.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    PROBES = 8                  # fullest machine about 1.2 of the average

cdef struct RingWalk:           # the machines in the order in which a key prefers them
    const uint64_t *points
    uint32_t n
    uint32_t step
    uint32_t order[PROBES]      # point indexes, nearest first

cdef void ring_seek(RingWalk *walk, const uint64_t *points, uint32_t n, uint64_t key) noexcept nogil
# The next machine slot: behind each probe, nearest first, then clockwise round the ring. Slots come up more than once;
# after n + PROBES steps every one has come.
cdef uint32_t ring_next(RingWalk *walk) noexcept nogil
