from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from flyproxy._speedups.shm.counters cimport (
    counters_app_of, counters_machine_of, counters_overflow_app_of, counters_overflow_machine_of, counters_used,
)
from flyproxy._speedups.shm.platform cimport fp_acquire_u32, fp_load_u64


cdef void sums_open(Areas *areas, Shm *shm) noexcept nogil:
    cdef uint32_t proc
    areas.shm = shm
    areas.n = 0
    for proc in range(shm.sizes.procs):
        if counters_used(shm, proc):
            areas.procs[areas.n] = proc
            areas.n += 1


cdef inline void add_words(uint64_t *to, const uint64_t *words, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        to[i] += fp_load_u64(&words[i])


cdef StatusSeries *status_of(HttpSum *out, uint16_t status) noexcept nogil:
    cdef uint32_t i = 0
    while i < out.n and out.status[i] != status:
        i += 1
    if i == out.n:
        if out.n == STATUSES - 1 and status:
            return status_of(out, 0)
        out.status[i] = status
        out.n += 1
    return &out.series[i]


cdef void add_http(HttpSum *out, const HttpSeries *from_) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>STATUS_CAP):
        if bucket_total(from_.series[i].buckets):
            add_words(<uint64_t *>status_of(out, 0 if i == STATUS_CAP - 1 else from_.status[i]),
                      <const uint64_t *>&from_.series[i], sizeof(StatusSeries) // 8)


cdef void add_app(AppSum *out, const AppSeries *from_) noexcept nogil:
    add_words(&out.connects, &from_.connects, 6)    # the six counters stand in the same order in both
    add_http(&out.http, &from_.http)


cdef void add_machine(MachineSum *out, const MachineSeries *from_) noexcept nogil:
    out.connects += fp_load_u64(&from_.connects)
    out.disconnects += fp_load_u64(&from_.disconnects)
    out.connect_sum_us += fp_load_u64(&from_.connect_sum_us)
    add_words(out.connect_buckets, from_.connect_buckets, BUCKETS + 1)
    add_http(&out.http, &from_.http)


cdef uint32_t sum_app(const Areas *areas, uint32_t app, uint32_t generation, AppSum *out) noexcept nogil:
    cdef const AppSeries *series
    cdef uint32_t i, found = 0
    memset(out, 0, sizeof(AppSum))
    for i in range(areas.n):
        series = counters_app_of(areas.shm, areas.procs[i], app)
        if series != NULL and fp_acquire_u32(&series.generation) == generation:
            add_app(out, series)
            found += 1
    return found


cdef uint32_t sum_machine(const Areas *areas, uint32_t machine, uint32_t generation, MachineSum *out) noexcept nogil:
    cdef const MachineSeries *series
    cdef uint32_t i, found = 0
    memset(out, 0, sizeof(MachineSum))
    for i in range(areas.n):
        series = counters_machine_of(areas.shm, areas.procs[i], machine)
        if series != NULL and fp_acquire_u32(&series.generation) == generation:
            add_machine(out, series)
            found += 1
    return found


cdef void sum_overflow(const Areas *areas, AppSum *app, MachineSum *machine) noexcept nogil:
    cdef uint32_t i
    memset(app, 0, sizeof(AppSum))
    memset(machine, 0, sizeof(MachineSum))
    for i in range(areas.n):
        add_app(app, counters_overflow_app_of(areas.shm, areas.procs[i]))
        add_machine(machine, counters_overflow_machine_of(areas.shm, areas.procs[i]))


cdef uint64_t bucket_total(const uint64_t *buckets) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(BUCKETS + 1):
        total += fp_load_u64(&buckets[i])
    return total
