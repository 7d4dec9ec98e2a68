# Look-ups in the VM table: lock-free, without Python, every reference and count checked before use (table_blocks.pxd).
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset
from flyproxy._speedups.shm.index cimport index_find
from flyproxy._speedups.shm.platform cimport (
    fp_acquire_u32, fp_acquire_u64, fp_fence, fp_fence_acquire, fp_load_u32, fp_load_u64, fp_prefetch,
    fp_release_u64, fp_siphash13, fp_store_u64,
)
from flyproxy._speedups.shm.segments cimport NOBODY, SEG_TABLE0, ProcBeat, Shm, shm_beat
from flyproxy._speedups.shm.table_blocks cimport Parts, app_at, block, parts_of, service_in, tail_of
from flyproxy._speedups.shm.table_layout cimport HOST_MAX, NAME_MAX, DirEntry, KeyBlock, ServiceTail, TableHeader


# -- turns
cdef void table_init(Table *t, Shm *shm) noexcept nogil:
    memset(t, 0, sizeof(Table))
    t.shm = shm
    refresh(t)


cdef inline void refresh(Table *t) noexcept nogil:
    cdef uint32_t active = SEG_TABLE0 + (fp_acquire_u32(&t.shm.root.active_table) & 1)
    cdef const TableHeader *header
    t.base = t.shm.base[active]
    t.size = t.shm.at.size[active]
    header = <const TableHeader *>t.base
    # generation last in the writer, first here: who sees it sees all that was published before it
    t.generation = fp_acquire_u64(&header.generation)
    t.revision = fp_acquire_u64(&header.revision)


cdef void table_enter(Table *t) noexcept nogil:
    cdef ProcBeat *beat = shm_beat(t.shm, t.shm.proc)
    if beat == NULL:
        refresh(t)
        return
    fp_release_u64(&beat.epoch, fp_acquire_u64(&t.shm.root.table_epoch))
    fp_fence()      # grace.pxd: no reference is read before the epoch can be seen
    refresh(t)
    if fp_load_u64(&beat.revision) != t.revision or fp_load_u64(&beat.generation) != t.generation:
        fp_store_u64(&beat.generation, t.generation)
        fp_release_u64(&beat.revision, t.revision)


cdef void table_leave(Table *t) noexcept nogil:
    cdef ProcBeat *beat = shm_beat(t.shm, t.shm.proc)
    if beat != NULL:
        fp_release_u64(&beat.epoch, EPOCH_OFFLINE)


cdef uint64_t table_mark(Table *t) noexcept nogil:
    return fp_acquire_u64(&t.shm.root.recycle_seq)


cdef int table_recycled(Table *t, uint64_t mark) noexcept nogil:
    fp_fence_acquire()
    return fp_load_u64(&t.shm.root.recycle_seq) != mark


# -- from a name, an address or a port to an app
cdef const TApp *table_app_by_id(Table *t, uint32_t id) noexcept nogil:
    cdef const DirEntry *entry
    cdef const TApp *app
    if id >= t.shm.sizes.apps:
        return NULL
    entry = <const DirEntry *>(t.base + t.shm.at.app_dir) + id
    app = app_at(t, fp_acquire_u32(&entry.ref))
    return app if app != NULL and app.id == id else NULL


cdef inline const TApp *app_by_name(Table *t, const char *host, uint32_t n) noexcept nogil:
    cdef const TableHeader *header = <const TableHeader *>t.base
    cdef uint64_t word = fp_acquire_u64(&header.hosts)
    cdef const KeyBlock *key = index_find(t.base, t.size, word, table_hash(t, host, n), host, n)
    return table_app_by_id(t, key.value) if key != NULL else NULL


cdef const TApp *table_app_by_host(Table *t, const char *host, uint32_t host_n) noexcept nogil:
    cdef char wildcard[HOST_MAX + 1]
    cdef const TApp *app
    cdef const char *dot
    cdef uint32_t n
    if host_n == 0 or host_n > HOST_MAX:
        return NULL
    app = app_by_name(t, host, host_n)
    if app == NULL and fp_load_u32(&(<const TableHeader *>t.base).wildcards):
        # as in certificates (RFC 6125 6.4.3): `*` stands for exactly the leftmost label
        dot = <const char *>memchr(host, c'.', host_n)
        if dot == NULL or dot == host:
            return NULL
        n = host_n - <uint32_t>(dot - host)
        wildcard[0] = c'*'
        memcpy(&wildcard[1], dot, n)
        app = app_by_name(t, wildcard, n + 1)
    return app


cdef int table_address(Table *t, const uint8_t *address, const TApp **app) noexcept nogil:
    cdef const TableHeader *header = <const TableHeader *>t.base
    cdef const TApp *found
    cdef const KeyBlock *key
    app[0] = NULL
    key = index_find(t.base, t.size, fp_acquire_u64(&header.addresses), table_hash(t, address, 16), address, 16)
    if key == NULL:
        return ADDR_UNKNOWN
    if key.value == NOBODY:
        return ADDR_SHARED
    found = table_app_by_id(t, key.value)
    if found == NULL:
        return ADDR_UNKNOWN
    app[0] = found
    return ADDR_APP


cdef const TApp *table_raw_port(Table *t, uint16_t port) noexcept nogil:
    cdef const uint32_t *raw = <const uint32_t *>(t.base + t.shm.at.raw_ports)
    cdef uint32_t id = fp_load_u32(&raw[port])      # app id + 1; 0: none; NOBODY: several
    cdef const TApp *app = table_app_by_id(t, id - 1) if id else NULL
    return app


cdef int table_http_port(Table *t, uint16_t port) noexcept nogil:
    return (t.base + t.shm.at.http_ports)[port] != 0


cdef const TApp *table_app(Table *t, uint32_t id, uint32_t generation) noexcept nogil:
    cdef const TApp *app = table_app_by_id(t, id)
    return app if app != NULL and app.generation == generation else NULL


# -- inside an app. The pointers come from the functions above; counts are checked again, since nothing promises that
# the bytes behind them are still the ones that were checked.
cdef const TPort *table_port(Table *t, const TApp *app, uint16_t port) noexcept nogil:
    cdef Parts parts
    cdef uint32_t i
    if not parts_of(t, app, &parts):
        return NULL
    for i in range(parts.nports):
        if port < parts.ports[i].start:
            return NULL
        if port <= parts.ports[i].end:
            return &parts.ports[i]
    return NULL


cdef const TService *table_service(Table *t, const TApp *app, uint32_t service) noexcept nogil:
    cdef const TService *s
    cdef Parts parts
    if not parts_of(t, app, &parts) or service >= parts.nservices:
        return NULL
    s = service_in(&parts, service)
    return s if s.key_n <= NAME_MAX else NULL


cdef const TService *table_service_by_port(Table *t, const TApp *app, uint16_t internal_port) noexcept nogil:
    cdef Parts parts
    cdef uint32_t i
    if not parts_of(t, app, &parts):
        return NULL
    for i in range(parts.nservices):
        if service_in(&parts, i).internal_port == internal_port:
            return table_service(t, app, i)
    return NULL


cdef const TService *table_service_by_id(Table *t, uint32_t id, uint32_t generation) noexcept nogil:
    cdef const DirEntry *entry
    cdef const TApp *app
    cdef const TService *s
    cdef Parts parts
    cdef uint32_t i
    if id >= t.shm.at.services:
        return NULL
    entry = <const DirEntry *>(t.base + t.shm.at.service_dir) + id
    app = table_app_by_id(t, fp_acquire_u32(&entry.ref) - 1)
    if app == NULL or not parts_of(t, app, &parts):
        return NULL
    for i in range(parts.nservices):
        s = service_in(&parts, i)
        if s.id == id and s.generation == generation:
            return table_service(t, app, i)
    return NULL


# -- machines
cdef const TMachine *table_slot(Table *t, uint32_t slot) noexcept nogil:
    cdef const DirEntry *entry
    cdef const TMachine *machine
    if slot >= t.shm.sizes.machines:
        return NULL
    entry = <const DirEntry *>(t.base + t.shm.at.machine_dir) + slot
    machine = <const TMachine *>block(t, fp_acquire_u32(&entry.ref), sizeof(TMachine))
    if machine == NULL or machine.slot != slot:
        return NULL
    if machine.id_n >= sizeof(machine.id) or machine.region_n >= sizeof(machine.region):
        return NULL
    if machine.host_n >= sizeof(machine.host):
        return NULL
    return machine


cdef const TMachine *table_machine(Table *t, uint32_t slot, uint32_t generation) noexcept nogil:
    cdef const TMachine *machine = table_slot(t, slot)
    return machine if machine != NULL and machine.generation == generation else NULL


cdef const TMachine *table_machine_by_id(Table *t, const char *id, uint32_t n) noexcept nogil:
    cdef uint64_t word = fp_acquire_u64(&(<const TableHeader *>t.base).machines)
    cdef const KeyBlock *key = index_find(t.base, t.size, word, table_hash(t, id, n), id, n)
    cdef const TMachine *machine = table_slot(t, key.value) if key != NULL else NULL
    return machine if machine != NULL and machine.id_n == n and memcmp(machine.id, id, n) == 0 else NULL


cdef void table_prefetch_slot(Table *t, uint32_t slot) noexcept nogil:
    if slot < t.shm.sizes.machines:
        fp_prefetch(<const DirEntry *>(t.base + t.shm.at.machine_dir) + slot)


cdef void table_prefetch_machine(Table *t, uint32_t slot) noexcept nogil:
    cdef const DirEntry *entry = <const DirEntry *>(t.base + t.shm.at.machine_dir) + slot
    cdef const uint8_t *machine
    if slot < t.shm.sizes.machines:
        machine = block(t, fp_acquire_u32(&entry.ref), sizeof(TMachine))
        if machine != NULL:
            fp_prefetch(machine)


# -- hosts
cdef const THost *table_host(Table *t, uint32_t slot) noexcept nogil:
    cdef const DirEntry *entry
    cdef const THost *host
    if slot >= HOSTS_MAX:
        return NULL
    entry = <const DirEntry *>(t.base + t.shm.at.host_dir) + slot
    host = <const THost *>block(t, fp_acquire_u32(&entry.ref), sizeof(THost))
    if host == NULL or host.slot != slot or host.nports > HOST_PORTS_MAX:
        return NULL
    return host if host.id_n < sizeof(host.id) and host.region_n < sizeof(host.region) else NULL


cdef const THost *table_host_by_id(Table *t, const char *id, uint32_t n) noexcept nogil:
    cdef uint32_t slots = min(fp_load_u32(&(<const TableHeader *>t.base).host_ids), <uint32_t>HOSTS_MAX), slot
    cdef const THost *host
    for slot in range(slots):
        host = table_host(t, slot)
        if host != NULL and host.id_n == n and memcmp(host.id, id, n) == 0:
            return host
    return NULL


# -- lists for route/
cdef inline const TApp *app_of(Table *t, const TService *s) noexcept nogil:
    return app_at(t, (<const ServiceTail *>(s + 1)).app)


cdef const uint32_t *table_candidates(Table *t, const TService *s, uint32_t r, uint32_t *n) noexcept nogil:
    cdef const TApp *app = app_of(t, s)
    cdef const uint32_t *slots
    cdef uint32_t count
    cdef Parts parts
    n[0] = 0
    if app == NULL or not parts_of(t, app, &parts) or r >= parts.nregions:
        return NULL
    count = fp_load_u32(&parts.regions[r].n)
    slots = <const uint32_t *>block(t, fp_load_u32(&parts.regions[r].list), count * <uint64_t>sizeof(uint32_t))
    if slots != NULL:
        n[0] = count
    return slots


cdef const uint64_t *table_ring(Table *t, const TService *s, uint32_t *n) noexcept nogil:
    cdef const TApp *app = app_of(t, s)
    cdef const uint64_t *points
    cdef uint32_t count
    n[0] = 0
    if app == NULL:
        return NULL
    count = fp_load_u32(&tail_of(app).ring_n)
    if count == 0:
        return NULL
    points = <const uint64_t *>block(t, fp_load_u32(&tail_of(app).ring), count * <uint64_t>sizeof(uint64_t))
    if points != NULL:
        n[0] = count
    return points


cdef uint64_t table_hash(Table *t, const void *bytes, uint32_t n) noexcept nogil:
    return fp_siphash13((<const TableHeader *>t.base).key, bytes, n)


# The door for Python.
from flyproxy._speedups.shm.table_reader import TableReader  # no-cython-lint
from flyproxy._speedups.shm.table_writer import TableFull, TableWriter  # no-cython-lint
