# Counters and histograms: each worker writes its own area with plain stores, control sums all areas. A process index
# that is taken over goes on counting in the same area, so counters never go back; gauges live in ProcBeat and budgets.
# A series exists from first use; the pool is bounded; past it everything lands in the overflow series.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:
    STATUS_CAP = 12             # distinct statuses per series; further ones count as status 0 ("other")
    BUCKETS = 14                # finite histogram buckets: 0.5ms 1 2 5 10 25 50 100 250 500 ms 1 2.5 5 10 s; then +Inf

cdef struct StatusSeries:       # two cache lines; the count is the sum of the buckets
    uint64_t sum_us
    uint64_t buckets[BUCKETS + 1]

cdef struct HttpSeries:
    uint16_t status[STATUS_CAP]  # 0: unused; the last entry is always "other"
    uint8_t pad[40]
    StatusSeries series[STATUS_CAP]

cdef struct AppSeries:          # labels app, region, host
    uint32_t app
    uint32_t generation         # 0: being emptied
    uint64_t connects           # fly_edge_tcp_connects_count
    uint64_t disconnects
    uint64_t data_in            # bytes from clients
    uint64_t data_out           # bytes to clients
    uint64_t dropped            # connections refused for a limit: fly_edge_tcp_connections_drop_count
    uint64_t log_dropped        # access-log lines lost
    uint64_t pad
    HttpSeries http             # fly_edge_http_*

cdef struct MachineSeries:      # labels app, region, host, instance
    uint32_t machine            # slot
    uint32_t generation
    uint64_t connects           # fly_app_tcp_connects_count
    uint64_t disconnects
    uint64_t connect_count      # fly_app_connect_time_seconds
    uint64_t connect_sum_us
    uint64_t connect_buckets[BUCKETS + 1]
    uint64_t pad[4]
    HttpSeries http             # fly_app_http_*

cdef enum:                      # Limit: flyproxy_limit_reached_total{limit=...}; names of the settings
    LIM_HEAD = 0
    LIM_HEADERS
    LIM_TARGET
    LIM_TRAILERS
    LIM_CHUNK_EXTENSION
    LIM_PIPELINED
    LIM_BUFFER
    LIM_CONNECTIONS
    LIM_APP_CONNECTIONS
    LIM_MEMORY
    LIM_BODY_RATE
    LIM_QUEUE
    LIM_HARD_LIMIT
    LIM_FILES
    LIM_SERIES
    LIM_PIPES
    LIM_STREAMS
    LIM_HELLOS
    LIM_WINDOWS
    LIM_COUNT

cdef enum:                      # Retry: flyproxy_retries_total{reason=...}
    RT_STALE = 0                # a pooled connection had been closed by the VM
    RT_REFUSED
    RT_CONNECT_TIMEOUT
    RT_RESET
    RT_HOST                     # the machine's host was not reached, or refused
    RT_COUNT

cdef enum:                      # MemoryKind: flyproxy_worker_memory_bytes{kind=...}; gauges
    MEM_BUFFERS = 0
    MEM_CONNECTIONS
    MEM_PIPES
    MEM_TLS                     # an estimate: connections times what one takes
    MEM_COUNT

cdef enum:                      # a HelloStatus, or: flyproxy_hellos_refused_total{reason=...}
    HELLO_SILENT = 0            # none came in time
    HELLO_TLS = 9               # a handshake failed, as either side
    HELLO_REASONS

cdef struct WorkerCounters:     # one per process index
    uint64_t requests
    uint64_t accepted
    uint64_t errors[64]         # by ErrorCode
    uint64_t limits[LIM_COUNT]
    uint64_t retries[RT_COUNT]
    uint64_t memory[MEM_COUNT]
    uint64_t hellos_refused[HELLO_REASONS]
    uint64_t transports         # gauge: connections with other proxies
    uint64_t streams            # gauge: requests on them
    uint64_t turn_count         # flyproxy_engine_turn_seconds: time spent in a turn, sleep not counted
    uint64_t turn_sum_us
    uint64_t turn_buckets[BUCKETS + 1]

cdef WorkerCounters *counters_worker(Shm *shm) noexcept nogil
# The own area's series; never NULL (overflow series when the pool is used up, counted as LIM_SERIES). A found series
# whose generation differs belongs to the id's former owner: it is emptied first.
cdef AppSeries *counters_app(Shm *shm, uint32_t app, uint32_t generation) noexcept nogil
cdef MachineSeries *counters_machine(Shm *shm, uint32_t machine, uint32_t generation) noexcept nogil
cdef void counters_http(HttpSeries *s, uint16_t status, uint64_t us) noexcept nogil
cdef uint32_t counters_bucket(uint64_t us) noexcept nogil
# -- for the reading side
# Areas of other processes; NULL for an index that does not exist, or when the process has no such series.
cdef const WorkerCounters *counters_worker_of(Shm *shm, uint32_t proc) noexcept nogil
cdef const AppSeries *counters_app_of(Shm *shm, uint32_t proc, uint32_t app) noexcept nogil
cdef const MachineSeries *counters_machine_of(Shm *shm, uint32_t proc, uint32_t machine) noexcept nogil
cdef const AppSeries *counters_overflow_app_of(Shm *shm, uint32_t proc) noexcept nogil
cdef const MachineSeries *counters_overflow_machine_of(Shm *shm, uint32_t proc) noexcept nogil
# 1 when the process index has ever counted anything (touches nothing else of an area that was never used).
cdef int counters_used(Shm *shm, uint32_t proc) noexcept nogil
