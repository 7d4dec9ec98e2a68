# One process's area in the counters segment: AreaHeader, WorkerCounters, app index, machine index, app pool, machine
# pool (offsets in Places). An index holds a pool entry per app id or machine slot, 0: none yet.
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    SERIES_MAX = 65536          # series of one kind per process, the overflow series included: 110 MB at most

cdef struct AreaHeader:
    uint32_t apps_used          # pool entries in use; entry 0 is the overflow series
    uint32_t machines_used
    uint8_t pad[56]
