# Series added up over the areas of all processes.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from flyproxy._speedups.shm.counters cimport BUCKETS, STATUS_CAP, AppSeries, HttpSeries, MachineSeries, StatusSeries
from flyproxy._speedups.shm.segments cimport PROCS_MAX, Shm

cdef enum:
    STATUSES = 64               # distinct statuses of one series over all processes; further ones are "other"

cdef struct HttpSum:
    uint32_t n
    uint16_t status[STATUSES]   # 0: "other"
    StatusSeries series[STATUSES]

cdef struct AppSum:
    uint64_t connects
    uint64_t disconnects
    uint64_t data_in
    uint64_t data_out
    uint64_t dropped
    uint64_t log_dropped
    HttpSum http

cdef struct MachineSum:
    uint64_t connects
    uint64_t disconnects
    uint64_t connect_sum_us
    uint64_t connect_buckets[BUCKETS + 1]
    HttpSum http

cdef struct Areas:              # the processes that have counted anything
    Shm *shm
    uint32_t n
    uint32_t procs[PROCS_MAX]

cdef void sums_open(Areas *areas, Shm *shm) noexcept nogil
# Number of areas that hold the series under this generation; 0: nothing was ever counted. *out is zero-filled first.
cdef uint32_t sum_app(const Areas *areas, uint32_t app, uint32_t generation, AppSum *out) noexcept nogil
cdef uint32_t sum_machine(const Areas *areas, uint32_t machine, uint32_t generation, MachineSum *out) noexcept nogil
# What found no room in any pool.
cdef void sum_overflow(const Areas *areas, AppSum *app, MachineSum *machine) noexcept nogil
cdef uint64_t bucket_total(const uint64_t *buckets) noexcept nogil
