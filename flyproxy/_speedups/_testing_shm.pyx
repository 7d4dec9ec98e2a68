"""Test doors of shm/ and route/: one reader or worker of the shared segments, seen from Python."""

import os

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from flyproxy._speedups.route.choose cimport (
    CHOOSE_FULL, CHOOSE_NONE, CHOOSE_UNHEALTHY, CHOSEN, Choose, route_choose, route_key, route_key_address,
)
from flyproxy._speedups.route.ring cimport RingWalk, ring_next, ring_seek
from flyproxy._speedups.shm.budget cimport (
    BK_APP, BK_INFLIGHT, BK_OPEN, BK_PROXY, budget_admit, budget_own, budget_release, budget_sum, budget_wait,
    budget_wake,
)
from flyproxy._speedups.shm.counters cimport (
    AppSeries, MachineSeries, counters_app, counters_bucket, counters_http, counters_machine, counters_worker,
)
from flyproxy._speedups.shm.logring cimport logring_put
from flyproxy._speedups.shm.platform cimport fp_cas_u64, fp_load_u64, fp_monotonic_ns, fp_siphash13, fp_split
from flyproxy._speedups.shm.ring cimport MACHINE_POINTS, ring_point
from flyproxy._speedups.shm.segments cimport (
    ROOT_BEATS, ROOT_OWNERS, SEG_COUNTERS, SEG_LOAD, SEG_LOGS, SEG_ROOT, ProcBeat, Root, Shm, shm_attach, shm_beat,
    shm_slot_owner, shm_unmap,
)
from flyproxy._speedups.shm.table cimport (
    ADDR_APP, ADDR_SHARED, ADDR_UNKNOWN, THost, TApp, TMachine, TPort, TService, Table, table_address, table_app,
    table_app_by_host, table_candidates, table_enter, table_http_port, table_init, table_leave, table_machine,
    table_port, table_raw_port, table_ring, table_service, table_service_by_id, table_slot,
)
from flyproxy._speedups.shm.table_layout cimport (
    AppTail, DirEntry, IndexSlot, KeyBlock, RegionRef, ServiceTail, TableHeader, Wait,
)

RESULTS = {CHOSEN: "chosen", CHOOSE_UNHEALTHY: "unhealthy", CHOOSE_NONE: "none", CHOOSE_FULL: "full"}
KINDS = {"inflight": BK_INFLIGHT, "open": BK_OPEN, "app": BK_APP, "proxy": BK_PROXY}


cdef str text(const char *p, uint32_t n):
    return p[:n].decode()


cdef inline uint64_t mix(uint64_t *state) noexcept nogil:
    """Repeatable random words."""
    state[0] += 1
    return fp_split(state[0] * <uint64_t>0x9E3779B97F4A7C15, 0)


cdef uint64_t add(uint64_t *p, uint64_t n) noexcept nogil:
    """Atomically; the new value."""
    cdef uint64_t was = fp_load_u64(p)
    while not fp_cas_u64(p, was, was + n):
        was = fp_load_u64(p)
    return was + n


# -- what the torture's writer promises of every record
cdef int machine_torn(const TMachine *m) noexcept nogil:
    """The version stands four times in the address and once in the port."""
    cdef const uint32_t *v = <const uint32_t *>m.address
    return v[0] != v[1] or v[0] != v[2] or v[0] != v[3] or m.port != <uint16_t>v[0]


cdef int app_torn(Table *t, const TApp *app) noexcept nogil:
    """Both limits of every service and the timeouts of every port hold the same version."""
    cdef const TService *s = table_service(t, app, 0)
    cdef const TPort *port
    cdef uint32_t version, i
    if s == NULL:
        return 1
    version = s.soft_limit
    for i in range(app.nservices):
        s = table_service(t, app, i)
        if s == NULL or s.soft_limit != version or s.hard_limit != version or s.app != app.id:
            return 1
        port = table_port(t, app, <uint16_t>(1000 + i))
        if port == NULL or port.idle_timeout_ms != version * 1000 or port.service != i:
            return 1
    return 0


cdef int lists_torn(Table *t, const TApp *app) noexcept nogil:
    """Every listed slot holds a machine of this app, or none any more; counts agree."""
    cdef const TService *s = table_service(t, app, 0)
    cdef const TMachine *m
    cdef const uint32_t *slots
    cdef uint32_t rank, n, i, listed = 0
    if s == NULL:
        return 1
    for rank in range(s.nregions):
        slots = table_candidates(t, s, rank, &n)
        if slots == NULL:
            return 1
        listed += n
        for i in range(n):
            m = table_slot(t, slots[i])
            if m != NULL and (m.app != app.id or machine_torn(m)):
                return 1
    return listed != s.routable


cdef class Worker:
    """A process index on the shared segments. `fds`: as create_segments returns them."""

    cdef Shm shm
    cdef Table table
    cdef uint64_t seed
    cdef const TService *held_service

    def __cinit__(self, dict fds, uint32_t proc, dict wake_fds=None, uint64_t seed=1):
        shm_attach(&self.shm, fds, 1 << SEG_ROOT | 1 << SEG_LOAD | 1 << SEG_COUNTERS | 1 << SEG_LOGS, proc)
        for index, fd in (wake_fds or {}).items():
            self.shm.wake_fd[<uint32_t>index & 63] = fd
        self.seed = seed
        table_init(&self.table, &self.shm)

    def __dealloc__(self):
        shm_unmap(&self.shm)

    # -- the table
    def enter(self):
        table_enter(&self.table)
        return self.table.revision, self.table.generation

    def leave(self):
        table_leave(&self.table)

    def epoch(self):
        return shm_beat(&self.shm, self.shm.proc).epoch

    def host(self, host):
        """(app name, id, generation) or None."""
        cdef bytes name = host.encode() if isinstance(host, str) else host
        return app_tuple(table_app_by_host(&self.table, name, <uint32_t>len(name)))

    def address(self, bytes ip16):
        """("unknown" | "app" | "shared", app tuple or None)."""
        cdef const TApp *app
        kind = table_address(&self.table, <const uint8_t *><const char *>ip16, &app)
        return {ADDR_UNKNOWN: "unknown", ADDR_APP: "app", ADDR_SHARED: "shared"}[kind], app_tuple(app)

    def raw_port(self, uint16_t port):
        return app_tuple(table_raw_port(&self.table, port))

    def http_port(self, uint16_t port):
        return bool(table_http_port(&self.table, port))

    def app(self, uint32_t id, uint32_t generation):
        return app_tuple(table_app(&self.table, id, generation))

    def port(self, str host, uint16_t port):
        """(start, end, handlers, force_https, pristine, proxy_version, service, idle ms, head ms, h2_backend)."""
        cdef bytes name = host.encode()
        cdef const TApp *app = table_app_by_host(&self.table, name, <uint32_t>len(name))
        cdef const TPort *p = table_port(&self.table, app, port) if app != NULL else NULL
        if p == NULL:
            return None
        return (p.start, p.end, p.handlers, p.force_https, p.pristine, p.proxy_version, p.service, p.idle_timeout_ms,
                p.head_timeout_ms, p.h2_backend)

    cdef const TService *find_service(self, str host, uint32_t service):
        cdef bytes name = host.encode()
        cdef const TApp *app = table_app_by_host(&self.table, name, <uint32_t>len(name))
        return table_service(&self.table, app, service) if app != NULL else NULL

    def service(self, str host, uint32_t service=0):
        """(id, generation, internal port, soft, hard, total, routable, regions) or None."""
        return service_tuple(self.find_service(host, service))

    def service_by_id(self, uint32_t id, uint32_t generation):
        return service_tuple(table_service_by_id(&self.table, id, generation))

    def candidates(self, str host, uint32_t service=0):
        """Slots of each region's list, nearest region first."""
        return self.lists(self.find_service(host, service))

    def hold(self, str host):
        """Keeps a pointer to the host's first service."""
        self.held_service = self.find_service(host, 0)

    def held_candidates(self):
        """What the kept pointer leads to now."""
        return self.lists(self.held_service)

    cdef list lists(self, const TService *s):
        cdef const uint32_t *slots
        cdef uint32_t rank, n, i
        lists = []
        for rank in range(s.nregions if s != NULL else 0):
            slots = table_candidates(&self.table, s, rank, &n)
            lists.append([slots[i] for i in range(n)])
        return lists

    def machine(self, uint32_t slot, uint32_t generation):
        """(id, port, health, cordoned, region) or None."""
        cdef const TMachine *m = table_machine(&self.table, slot, generation)
        return (text(m.id, m.id_n), m.port, m.health, m.cordoned, text(m.region, m.region_n)) if m != NULL else None

    def host_checked(self, str host):
        """1 when the host is found; everything that its app leads to is looked at on the way."""
        cdef bytes name = host.encode()
        cdef const TApp *app = table_app_by_host(&self.table, name, <uint32_t>len(name))
        cdef const TService *s
        cdef uint32_t i, n
        if app == NULL:
            return 0
        app_torn(&self.table, app)
        for i in range(app.nservices):
            s = table_service(&self.table, app, i)
            if s != NULL:
                lists_torn(&self.table, app)
                table_ring(&self.table, s, &n)
                table_service_by_id(&self.table, s.id, s.generation)
                self.choose_for(s, b"key", ())
        return 1

    # -- budgets
    def admit(self, str kind, uint32_t index, uint32_t limit):
        return bool(budget_admit(&self.shm, KINDS[kind], index, limit))

    def release(self, str kind, uint32_t index):
        budget_release(&self.shm, KINDS[kind], index)

    def sum(self, str kind, uint32_t index):
        return budget_sum(&self.shm, KINDS[kind], index)

    def own(self, str kind, uint32_t index):
        return budget_own(&self.shm, KINDS[kind], index)

    def wait(self, uint32_t service):
        budget_wait(&self.shm, service)

    def wake(self, uint32_t service):
        budget_wake(&self.shm, service)

    def admit_loop(self, uint32_t index, uint32_t limit, uint32_t turns, held):
        """Admits and releases; (admitted, times that more than the limit held a unit). `held`: 8 writable bytes that
        all who compete share and count in. (A sum over the words is no snapshot: a unit that moves while they are read
        can be seen twice.)"""
        cdef Py_buffer view
        cdef uint32_t _turn, admitted = 0, over = 0
        PyObject_GetBuffer(held, &view, PyBUF_WRITABLE)
        with nogil:
            for _turn in range(turns):
                if budget_admit(&self.shm, BK_INFLIGHT, index, limit):
                    admitted += 1
                    over += add(<uint64_t *>view.buf, 1) > limit
                    add(<uint64_t *>view.buf, <uint64_t>-1)
                    budget_release(&self.shm, BK_INFLIGHT, index)
        PyBuffer_Release(&view)
        return admitted, over

    # -- route
    def choose(self, str host, uint32_t service=0, key=None, tried=()):
        """(result, slot or None, rank of the region). Random words come from the seed."""
        return self.choose_for(self.find_service(host, service), key, tried)

    cdef choose_for(self, const TService *s, key, tried):
        cdef Choose c
        cdef int result
        memset(&c, 0, sizeof(Choose))
        c.random = mix(&self.seed)
        c.key = self.key(key) if key is not None else 0
        for slot in tried:
            c.tried[c.ntried] = slot
            c.ntried += 1
        result = route_choose(&self.table, s, &c)
        return RESULTS[result], c.machine.slot if c.machine != NULL else None, c.region

    def key(self, bytes key):
        return route_key(&self.table, key, <uint32_t>len(key))

    def key_address(self, bytes ip16):
        return route_key_address(&self.table, <const uint8_t *><const char *>ip16)

    def ring(self, str host):
        """Slots in ring order."""
        cdef uint32_t n, i
        cdef const uint64_t *points = table_ring(&self.table, self.find_service(host, 0), &n)
        return [points[i] & 0xFFFFFF for i in range(n)]

    # -- counters and logs
    def count_edge(self, uint32_t app, uint32_t generation, *, int connects=0, int disconnects=0, uint64_t bytes_in=0,
                   uint64_t bytes_out=0, int dropped=0, int log_dropped=0, answers=()):
        """`answers`: (status, microseconds) each."""
        cdef AppSeries *series = counters_app(&self.shm, app, generation)
        series.connects += connects
        series.disconnects += disconnects
        series.data_in += bytes_in
        series.data_out += bytes_out
        series.dropped += dropped
        series.log_dropped += log_dropped
        for status, us in answers:
            counters_http(&series.http, status, us)

    def count_machine(self, uint32_t slot, uint32_t generation, *, connect_us=(), int disconnects=0, answers=()):
        cdef MachineSeries *series = counters_machine(&self.shm, slot, generation)
        series.disconnects += disconnects
        for us in connect_us:
            series.connects += 1
            series.connect_count += 1
            series.connect_sum_us += us
            series.connect_buckets[counters_bucket(us)] += 1
        for status, us in answers:
            counters_http(&series.http, status, us)

    def count_worker(self, *, int requests=0, int accepted=0, error=None, limit=None, retry=None, memory=None,
                     turn_us=None):
        worker = counters_worker(&self.shm)
        worker.requests += requests
        worker.accepted += accepted
        if error is not None:
            worker.errors[<uint32_t>error] += 1
        if limit is not None:
            worker.limits[<uint32_t>limit] += 1
        if retry is not None:
            worker.retries[<uint32_t>retry] += 1
        if memory is not None:
            worker.memory[<uint32_t>memory[0]] = memory[1]
        if turn_us is not None:
            worker.turn_sum_us += <uint64_t>turn_us
            worker.turn_buckets[counters_bucket(turn_us)] += 1

    def log(self, bytes line):
        return bool(logring_put(&self.shm, line, <uint32_t>len(line)))

    def slot_owner(self, uint32_t slot):
        return shm_slot_owner(&self.shm, slot)

    # -- torture
    def read_loop(self, list hosts, uint64_t turns, int stop_fd):
        """Turns of look-ups of all hosts with every promise of the torture's writer checked, until `turns` are done or
        `stop_fd` is readable, but at least one; (look-ups that found an app, broken promises, turns)."""
        cdef uint64_t turn = 0, found = 0, torn = 0
        cdef bytes name
        import select
        while turn == 0 or (turn < turns and not select.select([stop_fd], [], [], 0)[0]):
            table_enter(&self.table)
            for name in hosts:
                self.read_one(name, &found, &torn)
            if mix(&self.seed) % 4 == 0:
                os.sched_yield()        # in the middle of a turn: the writer goes on, what we hold must stay
                for name in hosts:
                    self.read_one(name, &found, &torn)
            if mix(&self.seed) % 2:
                table_leave(&self.table)
            turn += 1
        table_leave(&self.table)
        return found, torn, turn

    cdef void read_one(self, bytes name, uint64_t *found, uint64_t *torn):
        cdef const TApp *app = table_app_by_host(&self.table, name, <uint32_t>len(name))
        if app != NULL:
            found[0] += 1
            torn[0] += app_torn(&self.table, app) or lists_torn(&self.table, app)

    # -- measuring: nanoseconds per operation, without the GIL
    def time_route(self, list hosts, order, bint admit):
        """Look-up of a host and choice of a machine for each index in `order` (uint32 as bytes), then release."""
        cdef bytes indexes = order
        cdef bytes host
        cdef uint32_t n = <uint32_t>(len(indexes) // 4), i
        cdef const uint32_t *at = <const uint32_t *><const char *>indexes
        cdef uint32_t nhosts = <uint32_t>len(hosts)
        cdef char *names = <char *>malloc(nhosts * 64)
        cdef uint64_t begin, chosen = 0
        cdef const TApp *app
        cdef const TService *s
        cdef Choose c
        for i, host in enumerate(hosts):
            names[i * 64] = <char>len(host)
            memcpy(&names[i * 64 + 1], <const char *>host, len(host))
        memset(&c, 0, sizeof(Choose))
        with nogil:
            begin = fp_monotonic_ns()
            for i in range(n):
                app = table_app_by_host(&self.table, &names[at[i] * 64 + 1], <uint8_t>names[at[i] * 64])
                if app == NULL:
                    continue
                chosen += 1
                if admit:
                    s = table_service(&self.table, app, 0)
                    c.random = mix(&self.seed)
                    c.key = c.random
                    if route_choose(&self.table, s, &c) == CHOSEN:
                        budget_release(&self.shm, BK_INFLIGHT, c.machine.slot)
            begin = fp_monotonic_ns() - begin
        free(names)
        if chosen != n:
            raise AssertionError(f"{n - chosen} of {n} hosts were not found")
        return <double>begin / n

    def time_admit(self, uint32_t index, uint32_t limit, uint32_t n):
        cdef uint64_t begin
        cdef uint32_t _pair
        with nogil:
            begin = fp_monotonic_ns()
            for _pair in range(n):
                budget_admit(&self.shm, BK_INFLIGHT, index, limit)
                budget_release(&self.shm, BK_INFLIGHT, index)
            begin = fp_monotonic_ns() - begin
        return <double>begin / n

    def time_ring(self, str host, uint32_t n):
        """Seeks of random keys on the ring of the host's app."""
        cdef uint64_t begin
        cdef uint32_t points_n, _seek
        cdef const uint64_t *points = table_ring(&self.table, self.find_service(host, 0), &points_n)
        cdef RingWalk walk
        cdef uint64_t total = 0
        with nogil:
            begin = fp_monotonic_ns()
            for _seek in range(n):
                ring_seek(&walk, points, points_n, mix(&self.seed))
                total += ring_next(&walk)
            begin = fp_monotonic_ns() - begin
        return <double>begin / n if total else 0.0


cdef app_tuple(const TApp *app):
    return (text(app.name, app.name_n), app.id, app.generation) if app != NULL else None


cdef service_tuple(const TService *s):
    if s == NULL:
        return None
    return s.id, s.generation, s.internal_port, s.soft_limit, s.hard_limit, s.total, s.routable, s.nregions


def siphash13(bytes key, bytes data):
    return fp_siphash13(<const uint64_t *><const char *>key, <const char *>data, <uint32_t>len(data))


def bucket(uint64_t us):
    return counters_bucket(us)


def ring_points(bytes key, list ids):
    """Sorted points of a ring of machines with these ids in slots 0, 1, …"""
    hashes = [siphash13(key, id) for id in ids]
    return sorted(ring_point(hashes[slot], i, slot) for slot in range(len(ids)) for i in range(MACHINE_POINTS))


def ring_walk(list points, uint64_t key, int steps):
    """The first `steps` slots that a key prefers on a ring of these points."""
    cdef uint32_t n = <uint32_t>len(points), i
    cdef uint64_t *array = <uint64_t *>malloc(n * sizeof(uint64_t))
    cdef RingWalk walk
    for i in range(n):
        array[i] = points[i]
    ring_seek(&walk, array, n, key)
    slots = [ring_next(&walk) for _ in range(steps)]
    free(array)
    return slots


def layout():
    """Sizes and offsets that docs/shared-memory.md draws."""
    return {
        "Root": sizeof(Root), "owners": ROOT_OWNERS, "beats": ROOT_BEATS, "ProcBeat": sizeof(ProcBeat),
        "TableHeader": sizeof(TableHeader), "DirEntry": sizeof(DirEntry), "IndexSlot": sizeof(IndexSlot),
        "KeyBlock": sizeof(KeyBlock), "TApp": sizeof(TApp), "AppTail": sizeof(AppTail), "RegionRef": sizeof(RegionRef),
        "TPort": sizeof(TPort), "TService": sizeof(TService), "ServiceTail": sizeof(ServiceTail),
        "TMachine": sizeof(TMachine), "THost": sizeof(THost), "Wait": sizeof(Wait), "AppSeries": sizeof(AppSeries),
        "MachineSeries": sizeof(MachineSeries),
    }
