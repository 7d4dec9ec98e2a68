from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy, memmove, memset
from flyproxy._speedups.shm.arena cimport Arena, arena_at, arena_give, arena_retire, arena_take
from flyproxy._speedups.shm.platform cimport fp_release_u32, fp_siphash13, fp_store_u32
from flyproxy._speedups.shm.ring cimport ring_add, ring_clear, ring_remove, ring_settle
from flyproxy._speedups.shm.segments cimport NOBODY
from flyproxy._speedups.shm.table cimport TApp
from flyproxy._speedups.shm.table_layout cimport GRANULE, REGIONS_MAX, AppTail, RegionRef, ServiceTail


# -- regions
cdef uint32_t distance_of(const Drafting *with_, const char *name) noexcept nogil:
    cdef uint32_t i
    if memcmp(name, with_.own_region, 16) == 0:
        return 0
    for i in range(with_.order_n):
        if memcmp(name, &with_.order[i * 16], 16) == 0:
            return i + 1
    return NOBODY


cdef int nearer(const void *a, const void *b) noexcept nogil:
    """Below 0 when region a comes before b: by distance, those that are as far as each other by name."""
    cdef uint32_t x = (<const Region *>a).distance
    cdef uint32_t y = (<const Region *>b).distance
    return (x > y) - (x < y) if x != y else memcmp((<const Region *>a).name, (<const Region *>b).name, 16)


cdef uint32_t region_rank(const Draft *draft, Drafting *with_, const char *name) noexcept nogil:
    """Where the region is, or where it belongs."""
    cdef Region wanted
    cdef uint32_t i = 0
    memcpy(wanted.name, name, 16)
    wanted.distance = distance_of(with_, name)
    while i < draft.nregions and nearer(&draft.regions[i], &wanted) < 0:
        i += 1
    return i


cdef inline int region_is(const Draft *draft, uint32_t rank, const char *name) noexcept nogil:
    return rank < draft.nregions and memcmp(draft.regions[rank].name, name, 16) == 0


cdef Region *region_open(Draft *draft, Drafting *with_, const char *name) noexcept nogil:
    cdef uint32_t rank = region_rank(draft, with_, name)
    cdef Region *regions
    if region_is(draft, rank, name):
        return &draft.regions[rank]
    if draft.nregions == REGIONS_MAX:
        return NULL
    regions = <Region *>realloc(draft.regions, (draft.nregions + 1) * sizeof(Region))
    if regions == NULL:
        return NULL
    draft.regions = regions
    memmove(&regions[rank + 1], &regions[rank], (draft.nregions - rank) * sizeof(Region))
    memset(&regions[rank], 0, sizeof(Region))
    memcpy(regions[rank].name, name, 16)
    regions[rank].distance = distance_of(with_, name)
    draft.nregions += 1
    if rank == 0:
        ring_clear(&draft.ring)     # another region is the nearest now
        draft.ring_changed = 1
    return &regions[rank]


cdef void region_close(Draft *draft, Drafting *with_, uint32_t rank) noexcept nogil:
    cdef Region *region = &draft.regions[rank]
    draft_gone(with_, region.list)
    free(region.slots)
    draft.nregions -= 1
    memmove(region, region + 1, (draft.nregions - rank) * sizeof(Region))
    if rank == 0:
        draft_reset_ring(draft, with_)


cdef int draft_reorder(Draft *draft, Drafting *with_) noexcept nogil:
    cdef char nearest[16]
    cdef uint32_t i
    cdef int changed = 0
    for i in range(draft.nregions):
        draft.regions[i].distance = distance_of(with_, draft.regions[i].name)
        changed |= i > 0 and nearer(&draft.regions[i - 1], &draft.regions[i]) > 0
    if not changed:
        return 0
    memcpy(nearest, draft.regions[0].name, 16)
    qsort(draft.regions, draft.nregions, sizeof(Region), nearer)
    if memcmp(nearest, draft.regions[0].name, 16) != 0 and draft_reset_ring(draft, with_) < 0:
        return -1
    return 1


# -- machines
cdef inline uint64_t id_hash(Drafting *with_, const TMachine *machine) noexcept nogil:
    return fp_siphash13(with_.key, machine.id, machine.id_n)


cdef int draft_add_machine(Draft *draft, Drafting *with_, const TMachine *machine, int routable) noexcept nogil:
    cdef Region *region
    cdef uint32_t *slots
    cdef uint32_t cap
    if routable:
        region = region_open(draft, with_, machine.region)
        if region == NULL:
            return -1
        if region.n == region.cap:
            cap = max(region.cap * 2, <uint32_t>4)
            slots = <uint32_t *>realloc(region.slots, cap * sizeof(uint32_t))
            if slots == NULL:
                return -1
            region.slots = slots
            region.cap = cap
        if draft.hashes and region == draft.regions:
            draft.ring_changed = 1
            if ring_add(&draft.ring, id_hash(with_, machine), machine.slot) < 0:
                return -1
        region.slots[region.n] = machine.slot
        region.n += 1
        region.changed = 1
        draft.routable += 1
    draft.total += 1
    return 0


cdef void draft_remove_machine(Draft *draft, Drafting *with_, const TMachine *machine, int routable) noexcept nogil:
    cdef uint32_t rank, i = 0
    cdef Region *region
    draft.total -= 1
    if not routable:
        return
    draft.routable -= 1
    rank = region_rank(draft, with_, machine.region)
    region = &draft.regions[rank]
    while region.slots[i] != machine.slot:
        i += 1
    memmove(&region.slots[i], &region.slots[i + 1], (region.n - i - 1) * sizeof(uint32_t))
    region.n -= 1
    region.changed = 1
    if draft.hashes and rank == 0:
        draft.ring_changed = 1
        ring_remove(&draft.ring, id_hash(with_, machine), machine.slot)
    if region.n == 0:
        region_close(draft, with_, rank)


cdef int draft_reset_ring(Draft *draft, Drafting *with_) noexcept nogil:
    cdef const TMachine *machine
    cdef uint32_t i
    ring_clear(&draft.ring)
    draft.ring_changed = 1
    if not draft.hashes or draft.nregions == 0:
        return 0
    for i in range(draft.regions[0].n):
        machine = <const TMachine *>arena_at(with_.arena, with_.records[draft.regions[0].slots[i]])
        if ring_add(&draft.ring, id_hash(with_, machine), machine.slot) < 0:
            return -1
    return 0


# -- building
cdef enum:
    INLINE_SLOTS = 64           # a list up to here lies in the app's own block: one cache miss less for most apps


cdef inline int is_inline(const Region *region) noexcept nogil:
    return region.n <= INLINE_SLOTS


cdef inline uint32_t granules(uint32_t bytes) noexcept nogil:
    return (bytes + GRANULE - 1) // GRANULE


cdef uint32_t build_ring(Draft *draft, Arena *arena) noexcept nogil:
    cdef uint32_t ref
    ring_settle(&draft.ring)
    ref = arena_take(arena, draft.ring.n * <uint64_t>sizeof(uint64_t))
    if ref:
        memcpy(arena_at(arena, ref), draft.ring.points, draft.ring.n * sizeof(uint64_t))
    return ref


cdef int build_lists(Draft *draft, Arena *arena) noexcept nogil:
    cdef Region *region
    cdef uint32_t i
    for i in range(draft.nregions):
        region = &draft.regions[i]
        if region.changed and not is_inline(region):
            region.next = arena_take(arena, region.n * <uint64_t>sizeof(uint32_t))
            if region.next == 0:
                return -1
            memcpy(arena_at(arena, region.next), region.slots, region.n * sizeof(uint32_t))
    if draft.ring_changed and draft.ring.n:
        draft.next_ring = build_ring(draft, arena)
        if draft.next_ring == 0:
            return -1
    return 0


cdef void fill_app(const Draft *draft, TApp *app, AppTail *tail, uint32_t bytes) noexcept nogil:
    memset(app, 0, sizeof(TApp))
    app.id = draft.id
    app.generation = draft.generation
    app.nservices = draft.nservices
    app.name_n = draft.name_n
    memcpy(app.name, draft.name, draft.name_n)
    tail.bytes = bytes
    tail.nregions = draft.nregions
    tail.nports = draft.nports
    tail.ring_n = draft.ring.n
    tail.ring = 0 if draft.ring.n == 0 else draft.next_ring if draft.ring_changed else draft.ring_block


cdef void fill_service(const Draft *draft, uint8_t *at, const TService *declared, uint32_t block) noexcept nogil:
    cdef TService *service = <TService *>at
    cdef ServiceTail *tail = <ServiceTail *>(service + 1)
    service[0] = declared[0]
    service.app = draft.id
    service.nregions = draft.nregions
    service.total = draft.total
    service.routable = draft.routable
    memset(tail, 0, sizeof(ServiceTail))
    tail.app = block


cdef uint32_t parts_bytes(const Draft *draft) noexcept nogil:
    """Everything in the block before the inline lists."""
    cdef uint32_t bytes = sizeof(TApp) + sizeof(AppTail) + draft.nregions * sizeof(RegionRef)
    return bytes + draft.nports * sizeof(TPort) + draft.nservices * (sizeof(TService) + sizeof(ServiceTail))


cdef void fill_regions(const Draft *draft, Arena *arena, RegionRef *out) noexcept nogil:
    """The references, and the short lists behind everything else, each at a granule of its own."""
    cdef uint32_t at = draft.next_block + granules(parts_bytes(draft))
    cdef const Region *region
    cdef uint32_t i
    for i in range(draft.nregions):
        region = &draft.regions[i]
        out[i].n = region.n
        memcpy(out[i].name, region.name, 16)
        if is_inline(region):
            out[i].list = at
            memcpy(arena_at(arena, at), region.slots, region.n * sizeof(uint32_t))
            at += granules(region.n * sizeof(uint32_t))
        else:
            out[i].list = region.next if region.changed else region.list


cdef int build_block(Draft *draft, Arena *arena) noexcept nogil:
    cdef uint32_t stride = sizeof(TService) + sizeof(ServiceTail), i
    cdef uint32_t blocks = granules(parts_bytes(draft))
    cdef uint8_t *at
    for i in range(draft.nregions):
        if is_inline(&draft.regions[i]):
            blocks += granules(draft.regions[i].n * sizeof(uint32_t))
    draft.next_block = arena_take(arena, <uint64_t>blocks * GRANULE)
    if draft.next_block == 0:
        return -1
    at = <uint8_t *>arena_at(arena, draft.next_block)
    fill_app(draft, <TApp *>at, <AppTail *>(at + sizeof(TApp)), blocks * GRANULE)
    at += sizeof(TApp) + sizeof(AppTail)
    fill_regions(draft, arena, <RegionRef *>at)
    at += draft.nregions * sizeof(RegionRef)
    memcpy(at, draft.ports, draft.nports * sizeof(TPort))
    at += draft.nports * sizeof(TPort)
    for i in range(draft.nservices):
        fill_service(draft, at + i * stride, &draft.services[i], draft.next_block)
    return 0


cdef int draft_build(Draft *draft, Drafting *with_) noexcept nogil:
    if not draft.declared:
        return 0
    if build_lists(draft, with_.arena) < 0 or build_block(draft, with_.arena) < 0:
        draft_discard(draft, with_)
        return -1
    return 0


cdef void draft_discard(Draft *draft, Drafting *with_) noexcept nogil:
    cdef uint32_t i
    for i in range(draft.nregions):
        give(with_.arena, &draft.regions[i].next)
    give(with_.arena, &draft.next_ring)
    give(with_.arena, &draft.next_block)


cdef inline void give(Arena *arena, uint32_t *ref) noexcept nogil:
    if ref[0]:
        arena_give(arena, ref[0])
        ref[0] = 0


# -- publishing
cdef inline void replace(Arena *arena, uint32_t *published, uint32_t *next) noexcept nogil:
    """The app's reference has been flipped: what only the former block named can be retired."""
    if published[0]:
        arena_retire(arena, published[0])
    published[0] = next[0]
    next[0] = 0


cdef void draft_publish(Draft *draft, Drafting *with_, DirEntry *entry) noexcept nogil:
    cdef uint32_t i
    fp_store_u32(&entry.generation, draft.generation)
    fp_release_u32(&entry.ref, draft.next_block)    # the one store that readers see
    replace(with_.arena, &draft.block, &draft.next_block)
    for i in range(draft.nregions):
        if draft.regions[i].changed or not draft.declared:
            replace(with_.arena, &draft.regions[i].list, &draft.regions[i].next)
        draft.regions[i].changed = not draft.declared   # an app that is hidden keeps no lists in the arena
    if draft.ring_changed or not draft.declared:
        replace(with_.arena, &draft.ring_block, &draft.next_ring)
    draft.ring_changed = not draft.declared
    draft.dirty = 0


cdef void draft_free(Draft *draft) noexcept nogil:
    cdef uint32_t i
    for i in range(draft.nregions):
        free(draft.regions[i].slots)
    free(draft.regions)
    free(draft.ports)
    free(draft.services)
    ring_clear(&draft.ring)
    memset(draft, 0, sizeof(Draft))


cdef int draft_gone(Drafting *with_, uint32_t ref) noexcept nogil:
    cdef uint32_t cap
    cdef uint32_t *gone
    if ref == 0:
        return 0
    if with_.gone_n == with_.gone_cap:
        cap = max(with_.gone_cap * 2, <uint32_t>64)
        gone = <uint32_t *>realloc(with_.gone, cap * sizeof(uint32_t))
        if gone == NULL:
            return -1
        with_.gone = gone
        with_.gone_cap = cap
    with_.gone[with_.gone_n] = ref
    with_.gone_n += 1
    return 0
