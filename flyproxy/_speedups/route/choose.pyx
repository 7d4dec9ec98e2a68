# The choice of a machine. In a region: the better of two random ones; when both are loaded, a scan from a random place,
# so that "full" is said only when every candidate is. By hash: along the key's walk over the ring, past machines that
# carry more than 1.25 of the average.
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp
from flyproxy._speedups.route.ring cimport PROBES, RingWalk, ring_next, ring_seek
from flyproxy._speedups.shm.budget cimport BK_INFLIGHT, budget_admit, budget_prefetch, budget_sum
from flyproxy._speedups.shm.closeness cimport HS_DOWN, host_state, host_word
from flyproxy._speedups.shm.platform cimport fp_scale
from flyproxy._speedups.shm.ring cimport ring_slot
from flyproxy._speedups.shm.segments cimport NOBODY
from flyproxy._speedups.shm.table cimport (
    BAL_LEAST, HOST_HERE, HOST_UNKNOWN, TMachine, TService, Table, table_candidates, table_hash,
    table_prefetch_machine, table_prefetch_slot, table_ring, table_slot,
)

cdef enum:
    SOFT_LOOKS = 32             # machines looked at for one below its soft limit; then any below its hard limit will do
    WALK_MAX = 64               # steps along the ring for one that is not overloaded
    SAMPLE = 32                 # machines whose load stands for the average of a larger ring


cdef inline uint32_t load_of(Table *t, uint32_t slot) noexcept nogil:
    return budget_sum(t.shm, BK_INFLIGHT, slot)


cdef inline int was_tried(const Choose *c, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    for i in range(min(c.ntried, <uint32_t>TRIED_MAX)):
        if c.tried[i] == slot:
            return 1
    return 0


cdef inline const TMachine *reachable(Table *t, const TService *s, Choose *c, uint32_t slot) noexcept nogil:
    """The machine, unless it is gone since the list was made, or its host is unknown or down (`c.down` keeps that)."""
    cdef const TMachine *machine = table_slot(t, slot)
    if machine == NULL or machine.app != s.app:
        return NULL
    if machine.host_slot != HOST_HERE:
        if machine.host_slot == HOST_UNKNOWN:
            return NULL
        if host_state(host_word(t.shm, machine.host_slot)) == HS_DOWN and not c.despair:
            c.down = 1
            return NULL
    return machine


cdef int take(Table *t, const TService *s, Choose *c, uint32_t slot) noexcept nogil:
    """Admits one unit for the machine. 0: it was full after all, or cannot be reached."""
    cdef const TMachine *machine = reachable(t, s, c, slot)
    if machine == NULL or not budget_admit(t.shm, BK_INFLIGHT, slot, s.hard_limit):
        return 0
    c.machine = machine
    return 1


# -- the better of two
cdef int scan(Table *t, const TService *s, Choose *c, const uint32_t *slots, uint32_t n,
              uint32_t soft_looks) noexcept nogil:
    """One pass over a region's list from a random place: CHOSEN, CHOOSE_FULL, or CHOOSE_NONE when all were tried
    or cannot be reached. A record is looked at only where that decides: it costs two cache misses."""
    cdef uint32_t at = fp_scale(<uint32_t>c.random, n)
    cdef uint32_t k, slot, load, best = NOBODY, best_load = 0
    cdef int result = CHOOSE_NONE
    for k in range(n):
        slot = slots[at]
        at = at + 1 if at + 1 < n else 0
        if was_tried(c, slot):
            continue
        load = load_of(t, slot)
        if s.hard_limit and load >= s.hard_limit:
            if result == CHOOSE_NONE and reachable(t, s, c, slot) != NULL:
                result = CHOOSE_FULL
        elif k < soft_looks and s.soft_limit and load >= s.soft_limit:
            if (best == NOBODY or load < best_load) and reachable(t, s, c, slot) != NULL:
                best, best_load = slot, load
        elif take(t, s, c, slot):
            return CHOSEN
        elif reachable(t, s, c, slot) != NULL:
            result = CHOOSE_FULL        # somebody took its last unit just now
    if best != NOBODY:
        if take(t, s, c, best):
            return CHOSEN
        return scan(t, s, c, slots, n, 0)       # lost a race for it: soft limits no longer matter
    return result


cdef int choose_least(Table *t, const TService *s, Choose *c, const uint32_t *slots, uint32_t n) noexcept nogil:
    cdef uint32_t i = fp_scale(<uint32_t>c.random, n)
    cdef uint32_t j = i + 1 + fp_scale(<uint32_t>(c.random >> 32), n - 1) if n > 1 else i
    cdef uint32_t a = slots[i]
    cdef uint32_t b = slots[j if j < n else j - n]
    cdef uint32_t load_a, load_b
    # Four misses at once, then two, instead of one after the other: they are most of what a choice costs.
    table_prefetch_slot(t, a)
    table_prefetch_slot(t, b)
    budget_prefetch(t.shm, BK_INFLIGHT, a)
    budget_prefetch(t.shm, BK_INFLIGHT, b)
    table_prefetch_machine(t, a)
    table_prefetch_machine(t, b)
    if c.ntried and (was_tried(c, a) or was_tried(c, b)):
        return scan(t, s, c, slots, n, SOFT_LOOKS)
    load_a = load_of(t, a)
    load_b = load_of(t, b)
    if load_b < load_a:
        a, load_a = b, load_b
    if (s.soft_limit == 0 or load_a < s.soft_limit) and take(t, s, c, a):
        return CHOSEN
    return scan(t, s, c, slots, n, SOFT_LOOKS)


# -- by hash
cdef uint32_t bound(Table *t, const uint64_t *points, uint32_t n, uint64_t random) noexcept nogil:
    """What a machine may carry, the new unit included: 1.25 of the average, rounded up. Of a large ring the average is
    that of SAMPLE neighbours; the ring's order is random, so they are a random sample."""
    cdef uint32_t looked = min(n, <uint32_t>SAMPLE)
    cdef uint32_t at = fp_scale(<uint32_t>random, n) if n > SAMPLE else 0
    cdef uint64_t total = 0
    cdef uint32_t _look
    for _look in range(looked):
        total += load_of(t, ring_slot(points[at]))
        at = at + 1 if at + 1 < n else 0
    total = total * n // looked
    return <uint32_t>((5 * (total + 1) + 4 * <uint64_t>n - 1) // (4 * <uint64_t>n))


cdef int choose_hash(Table *t, const TService *s, Choose *c, const uint64_t *points, uint32_t n) noexcept nogil:
    """CHOSEN, or CHOOSE_FULL when nobody on the way could take it."""
    cdef RingWalk walk
    cdef uint32_t most = 0, _step, slot, load
    ring_seek(&walk, points, n, c.key)
    for _step in range(min(n + PROBES, <uint32_t>WALK_MAX)):
        slot = ring_next(&walk)
        if was_tried(c, slot):
            continue
        load = load_of(t, slot)
        if load and not most:       # an idle machine is below any bound
            most = bound(t, points, n, c.random)
        if (load == 0 or load < most) and take(t, s, c, slot):
            return CHOSEN
    return CHOOSE_FULL


cdef int choose(Table *t, const TService *s, Choose *c) noexcept nogil:
    cdef const uint32_t *slots
    cdef const uint64_t *points
    cdef uint32_t n
    cdef int result, worst = CHOOSE_NONE
    c.machine = NULL
    c.region = 0
    if s.total == 0:
        return CHOOSE_NONE
    if s.routable == 0:
        return CHOOSE_UNHEALTHY
    if s.balance != BAL_LEAST:
        points = table_ring(t, s, &n)
        if points != NULL and choose_hash(t, s, c, points, n) == CHOSEN:
            return CHOSEN
    for c.region in range(s.nregions):
        slots = table_candidates(t, s, c.region, &n)
        if slots == NULL or n == 0:
            continue
        result = choose_least(t, s, c, slots, n)
        if result == CHOSEN:
            return CHOSEN
        if result == CHOOSE_FULL:
            worst = CHOOSE_FULL
    return worst


cdef int route_choose(Table *t, const TService *s, Choose *c) noexcept nogil:
    cdef int result
    c.down = c.despair = 0
    result = choose(t, s, c)
    if result == CHOOSE_NONE and c.down:
        c.despair = 1           # nobody else is left: "down" may be wrong, and an answer is certain otherwise
        result = choose(t, s, c)
    return result


# -- keys
cdef uint64_t route_key(Table *t, const char *p, uint32_t n) noexcept nogil:
    return table_hash(t, p, n)


cdef uint64_t route_key_address(Table *t, const unsigned char *address) noexcept nogil:
    """All of a v4 address (v4-mapped); of v6 the /64, which is what one host or household has."""
    cdef int mapped = memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0
    return table_hash(t, address, 16 if mapped else 8)
