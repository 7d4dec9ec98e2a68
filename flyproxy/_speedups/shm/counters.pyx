# Counters and histograms. Only the owner of an area writes to it, with plain stores of single words; readers add up all
# areas. At the end the door for Python.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from flyproxy._speedups.errors cimport ERR_COUNT
from flyproxy._speedups.shm.counters_layout cimport AreaHeader
from flyproxy._speedups.shm.exposition cimport exposition_write
from flyproxy._speedups.shm.platform cimport (
    FP_BUCKETS_LE, FP_BUCKETS_US, FP_ERRORS, FP_HELLO_NAMES, FP_LIMIT_NAMES, FP_MEMORY_NAMES, FP_RETRY_NAMES,
    fp_acquire_u32, fp_load_u32, fp_load_u64, fp_release_u32, fp_store_u64,
)
from flyproxy._speedups.shm.segments cimport NOBODY, SEG_COUNTERS, Shm, shm_attach, shm_live, shm_unmap
from flyproxy._speedups.shm.text cimport Text, text_free


cdef inline uint8_t *area_of(Shm *shm, uint32_t proc) noexcept nogil:
    return shm.base[SEG_COUNTERS] + proc * shm.at.counters_stride if proc < shm.sizes.procs else NULL


cdef inline WorkerCounters *worker_in(uint8_t *area) noexcept nogil:
    return <WorkerCounters *>(area + sizeof(AreaHeader))


cdef inline AppSeries *app_pool(Shm *shm, uint8_t *area) noexcept nogil:
    return <AppSeries *>(area + shm.at.app_pool)


cdef inline MachineSeries *machine_pool(Shm *shm, uint8_t *area) noexcept nogil:
    return <MachineSeries *>(area + shm.at.machine_pool)


cdef WorkerCounters *counters_worker(Shm *shm) noexcept nogil:
    return worker_in(area_of(shm, shm.proc))


cdef inline uint32_t entry_of(uint32_t *index, uint32_t *used, uint32_t cap) noexcept nogil:
    """The pool entry behind an index word, a new one at first use; 0, the overflow series, when the pool is used up."""
    cdef uint32_t entry = fp_load_u32(index)
    if entry and entry < cap:
        return entry
    entry = max(fp_load_u32(used), <uint32_t>1)
    if entry >= cap:
        return 0
    fp_release_u32(used, entry + 1)
    fp_release_u32(index, entry)
    return entry


cdef AppSeries *counters_app(Shm *shm, uint32_t app, uint32_t generation) noexcept nogil:
    cdef uint8_t *area = area_of(shm, shm.proc)
    cdef AreaHeader *header = <AreaHeader *>area
    cdef AppSeries *pool = app_pool(shm, area)
    cdef AppSeries *series
    cdef uint32_t entry = 0
    if app < shm.sizes.apps:
        entry = entry_of(<uint32_t *>(area + shm.at.app_index) + app, &header.apps_used, shm.at.app_series)
    if entry == 0:
        worker_in(area).limits[LIM_SERIES] += 1
        return pool
    series = &pool[entry]
    if series.generation != generation:
        fp_release_u32(&series.generation, 0)   # readers leave it out while it is being emptied
        memset(series, 0, sizeof(AppSeries))
        series.app = app
        fp_release_u32(&series.generation, generation)
    return series


cdef MachineSeries *counters_machine(Shm *shm, uint32_t machine, uint32_t generation) noexcept nogil:
    cdef uint8_t *area = area_of(shm, shm.proc)
    cdef AreaHeader *header = <AreaHeader *>area
    cdef MachineSeries *pool = machine_pool(shm, area)
    cdef MachineSeries *series
    cdef uint32_t entry = 0
    if machine < shm.sizes.machines:
        entry = entry_of(<uint32_t *>(area + shm.at.machine_index) + machine, &header.machines_used,
                         shm.at.machine_series)
    if entry == 0:
        worker_in(area).limits[LIM_SERIES] += 1
        return pool
    series = &pool[entry]
    if series.generation != generation:
        fp_release_u32(&series.generation, 0)
        memset(series, 0, sizeof(MachineSeries))
        series.machine = machine
        fp_release_u32(&series.generation, generation)
    return series


cdef inline uint32_t status_entry(HttpSeries *s, uint16_t status) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>STATUS_CAP - 1 if status else 0):
        if s.status[i] == status:
            return i
        if s.status[i] == 0:
            s.status[i] = status
            return i
    return STATUS_CAP - 1


cdef void counters_http(HttpSeries *s, uint16_t status, uint64_t us) noexcept nogil:
    cdef StatusSeries *series = &s.series[status_entry(s, status)]
    fp_store_u64(&series.sum_us, series.sum_us + us)
    fp_store_u64(&series.buckets[counters_bucket(us)], series.buckets[counters_bucket(us)] + 1)


cdef uint32_t counters_bucket(uint64_t us) noexcept nogil:
    """Number of bounds below `us`, by three steps of halving and a last look."""
    cdef const uint64_t *bound = FP_BUCKETS_US
    cdef uint32_t i = 0
    i += (us > bound[i + 7]) * 8
    i += (us > bound[i + 3]) * 4
    i += (us > bound[i + 1]) * 2
    i += us > bound[i]
    return min(i, <uint32_t>BUCKETS)


# -- the reading side
cdef const WorkerCounters *counters_worker_of(Shm *shm, uint32_t proc) noexcept nogil:
    cdef uint8_t *area = area_of(shm, proc)
    return worker_in(area) if area != NULL else NULL


cdef const AppSeries *counters_app_of(Shm *shm, uint32_t proc, uint32_t app) noexcept nogil:
    cdef uint8_t *area = area_of(shm, proc)
    cdef uint32_t entry
    if area == NULL or app >= shm.sizes.apps:
        return NULL
    entry = fp_acquire_u32(<uint32_t *>(area + shm.at.app_index) + app)
    return &app_pool(shm, area)[entry] if 0 < entry < shm.at.app_series else NULL


cdef const MachineSeries *counters_machine_of(Shm *shm, uint32_t proc, uint32_t machine) noexcept nogil:
    cdef uint8_t *area = area_of(shm, proc)
    cdef uint32_t entry
    if area == NULL or machine >= shm.sizes.machines:
        return NULL
    entry = fp_acquire_u32(<uint32_t *>(area + shm.at.machine_index) + machine)
    return &machine_pool(shm, area)[entry] if 0 < entry < shm.at.machine_series else NULL


cdef const AppSeries *counters_overflow_app_of(Shm *shm, uint32_t proc) noexcept nogil:
    return app_pool(shm, area_of(shm, proc))


cdef const MachineSeries *counters_overflow_machine_of(Shm *shm, uint32_t proc) noexcept nogil:
    return machine_pool(shm, area_of(shm, proc))


cdef int counters_used(Shm *shm, uint32_t proc) noexcept nogil:
    cdef AreaHeader *header = <AreaHeader *>area_of(shm, proc)
    return fp_load_u32(&header.apps_used) != 0 or fp_load_u32(&header.machines_used) != 0 or worker_in(
        <uint8_t *>header).accepted != 0


# -- for Python
cdef class CounterReader:
    """All processes' counters, added up (control). `fds`: {segment name: descriptor}, read-only ones are enough."""
    cdef Shm shm

    def __cinit__(self, dict fds):
        shm_attach(&self.shm, fds, 0, NOBODY)

    def __dealloc__(self):
        shm_unmap(&self.shm)

    def exposition(self, str region, str host):
        """The fly_* families of every app and machine that has counted anything, in the Prometheus text format 0.0.4.
        `region` and `host`: this proxy's, for the labels. Written without the GIL."""
        cdef Text page
        cdef bytes region_bytes = region.encode()
        cdef bytes host_bytes = host.encode()
        cdef const char *region_chars = region_bytes
        cdef const char *host_chars = host_bytes
        cdef int result
        memset(&page, 0, sizeof(Text))
        with nogil:
            result = exposition_write(&self.shm, region_chars, host_chars, &page)
        try:
            if result < 0:
                raise MemoryError("the metrics page did not fit in memory")
            return page.p[:page.n] if page.n else b""
        finally:
            text_free(&page)

    def worker_totals(self):
        """{"requests": {process index: n}, "errors": {code: n}, "limits": {name: n}, "retries": {reason: n}, "memory":
        {kind: bytes in living processes}, "turn_buckets": {upper bound in seconds: turns up to it}, "turn_seconds":
        sum, "hellos_refused": {reason: n}, "transports": open, "streams": open}."""
        cdef const WorkerCounters *worker
        cdef uint64_t live = shm_live(&self.shm)
        cdef uint32_t proc, i
        totals = {
            "requests": {}, "limits": names(FP_LIMIT_NAMES, LIM_COUNT),
            "errors": {(<bytes>FP_ERRORS[i].code).decode(): 0 for i in range(1, <uint32_t>ERR_COUNT)},
            "retries": names(FP_RETRY_NAMES, RT_COUNT), "memory": names(FP_MEMORY_NAMES, MEM_COUNT),
            "turn_buckets": names(FP_BUCKETS_LE, BUCKETS + 1), "turn_seconds": 0.0,
            "hellos_refused": names(FP_HELLO_NAMES, HELLO_REASONS), "transports": 0, "streams": 0,
        }
        for proc in range(self.shm.sizes.procs):
            if not (counters_used(&self.shm, proc) or live >> proc & 1):
                continue
            worker = counters_worker_of(&self.shm, proc)
            totals["requests"][proc] = worker.requests
            add(totals["errors"], worker.errors + 1)
            add(totals["limits"], worker.limits)
            add(totals["retries"], worker.retries)
            add(totals["hellos_refused"], worker.hellos_refused)
            if live >> proc & 1:
                add(totals["memory"], worker.memory)
                totals["transports"] += worker.transports
                totals["streams"] += worker.streams
            add(totals["turn_buckets"], worker.turn_buckets)
            totals["turn_seconds"] += worker.turn_sum_us / 1e6
        so_far = 0
        for bound, turns in totals["turn_buckets"].items():
            so_far += turns
            totals["turn_buckets"][bound] = so_far
        return totals


cdef dict names(const char *const *table, int n):
    return {(<bytes>table[i]).decode(): 0 for i in range(n)}


cdef add(dict totals, const uint64_t *counts):
    cdef int i
    for i, name in enumerate(totals):
        totals[name] += fp_load_u64(&counts[i])
