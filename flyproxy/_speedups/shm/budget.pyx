# Admission by single-writer words, exact at the limit.
#
# A process marks its intent (TRYING) in its own word, fences, then reads everybody's words. Of any two that try at the
# same time the one whose fence comes later in the total order of fences sees the other's mark, so the last one counts
# all others: the sum of what is held never passes the limit. Marks that are not yet decided can only be in the way when
# the last free units are contended; then the lowest process index goes first and the others step back and try again. So
# a refusal means that the limit is really held by others, and one of them will call budget_wake when it lets go.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport (
    fp_acquire_u32, fp_and_u64, fp_bits, fp_fence, fp_load_u32, fp_load_u64, fp_lowest_bit, fp_or_u64, fp_pause,
    fp_prefetch, fp_release_u32, fp_store_u32,
)
from flyproxy._speedups.shm.segments cimport NOBODY, ProcBeat, SEG_LOAD, Shm, shm_beat, shm_live, shm_wake
from flyproxy._speedups.shm.table_layout cimport Wait

cdef enum:
    TRYING = 0x80000000         # in a word: its owner is about to add one
    ROUNDS = 8                  # steps back before a contended try counts as refused
    SPINS = 1000                # pauses (about 20 µs) for a rival that is between two instructions


cdef inline uint32_t *words(Shm *shm, int kind, uint32_t index) noexcept nogil:
    if index >= shm.at.budget_n[kind]:
        return NULL
    return <uint32_t *>(shm.base[SEG_LOAD] + shm.at.budget[kind] + index * shm.at.budget_stride)


cdef inline uint32_t sum_held(Shm *shm, const uint32_t *w, uint64_t *rivals) noexcept nogil:
    """Units held by live processes; `rivals`: who else is trying."""
    cdef uint64_t live = shm_live(shm)
    cdef uint64_t trying = 0
    cdef uint32_t held = 0, proc, word
    while live:
        proc = fp_lowest_bit(live)
        live &= live - 1
        word = fp_acquire_u32(&w[proc])
        held += word & ~<uint32_t>TRYING
        if word & TRYING and proc != shm.proc:
            trying |= (<uint64_t>1) << proc
    rivals[0] = trying
    return held


cdef uint64_t await_decisions(Shm *shm, const uint32_t *w, uint64_t rivals) noexcept nogil:
    """Waits, bounded, until each of `rivals` has been seen without its mark; those that have not are returned."""
    cdef uint32_t proc
    cdef int _spin
    for _spin in range(SPINS):
        while rivals:
            proc = fp_lowest_bit(rivals)
            if fp_acquire_u32(&w[proc]) & TRYING and shm_live(shm) >> proc & 1:
                break
            rivals &= rivals - 1
        if not rivals:
            return 0
        fp_pause()
    return rivals


cdef int admit_contended(Shm *shm, uint32_t *w, uint32_t own, uint32_t limit) noexcept nogil:
    """One try under the mark: 1 admitted, 0 refused, -1 stepped back for a lower index: try again."""
    cdef uint64_t rivals
    cdef uint64_t lower = ((<uint64_t>1) << shm.proc) - 1
    cdef uint32_t held
    fp_store_u32(&w[shm.proc], own | TRYING)
    fp_fence()
    held = sum_held(shm, w, &rivals)
    if held + 1 + fp_bits(rivals) > limit and held < limit:
        if rivals & lower:
            fp_release_u32(&w[shm.proc], own)
            await_decisions(shm, w, rivals & lower)
            return -1
        # Nobody lower: the higher ones either see the mark and step back, or had decided before it was there.
        if await_decisions(shm, w, rivals):
            fp_release_u32(&w[shm.proc], own)
            return 0
        held = sum_held(shm, w, &rivals)
    if held >= limit:
        fp_release_u32(&w[shm.proc], own)
        return 0
    fp_release_u32(&w[shm.proc], own + 1)
    return 1


cdef int budget_admit(Shm *shm, int kind, uint32_t index, uint32_t limit) noexcept nogil:
    cdef uint32_t *w = words(shm, kind, index)
    cdef ProcBeat *beat
    cdef uint32_t own
    cdef int _try, result
    if w == NULL or shm.proc == NOBODY:
        return 0
    beat = shm_beat(shm, shm.proc)
    if index >= fp_load_u32(&beat.touched[kind]):
        fp_release_u32(&beat.touched[kind], index + 1)
    own = fp_load_u32(&w[shm.proc])
    if limit == 0:
        fp_release_u32(&w[shm.proc], own + 1)
        return 1
    for _try in range(ROUNDS):
        result = admit_contended(shm, w, own, limit)
        if result >= 0:
            return result
    return 0


cdef void budget_release(Shm *shm, int kind, uint32_t index) noexcept nogil:
    cdef uint32_t *w = words(shm, kind, index)
    cdef uint32_t own
    if w == NULL or shm.proc == NOBODY:
        return
    own = fp_load_u32(&w[shm.proc])
    if own:
        fp_release_u32(&w[shm.proc], own - 1)


cdef uint32_t budget_sum(Shm *shm, int kind, uint32_t index) noexcept nogil:
    cdef uint32_t *w = words(shm, kind, index)
    cdef uint64_t rivals
    return sum_held(shm, w, &rivals) if w != NULL else 0


cdef uint32_t budget_own(Shm *shm, int kind, uint32_t index) noexcept nogil:
    cdef uint32_t *w = words(shm, kind, index)
    return fp_load_u32(&w[shm.proc]) & ~<uint32_t>TRYING if w != NULL and shm.proc != NOBODY else 0


cdef void budget_prefetch(Shm *shm, int kind, uint32_t index) noexcept nogil:
    cdef uint32_t *w = words(shm, kind, index)
    if w != NULL:
        fp_prefetch(w)


# -- waiters
cdef inline Wait *wait_of(Shm *shm, uint32_t service) noexcept nogil:
    return <Wait *>(shm.base[SEG_LOAD] + shm.at.waits) + service if service < shm.at.services else NULL


cdef void budget_wait(Shm *shm, uint32_t service) noexcept nogil:
    cdef Wait *wait = wait_of(shm, service)
    if wait != NULL and shm.proc != NOBODY:
        fp_or_u64(&wait.mask, (<uint64_t>1) << shm.proc)


cdef void budget_wake(Shm *shm, uint32_t service) noexcept nogil:
    cdef Wait *wait = wait_of(shm, service)
    cdef uint64_t waiting, after, bit
    cdef uint32_t proc
    if wait == NULL:
        return
    fp_fence()      # against budget_wait: either the waiter's next try sees the release, or we see its bit
    while True:
        waiting = fp_load_u64(&wait.mask) & shm_live(shm)
        if not waiting:
            return
        after = waiting & (~<uint64_t>1 << (fp_load_u32(&wait.last) & 63))
        proc = fp_lowest_bit(after if after else waiting)
        bit = (<uint64_t>1) << proc
        if fp_and_u64(&wait.mask, ~bit) & bit:
            fp_store_u32(&wait.last, proc)
            shm_wake(shm, proc)
            return


# -- the master and the writer
cdef void budget_reclaim(Shm *shm, uint32_t proc) noexcept nogil:
    cdef ProcBeat *beat = shm_beat(shm, proc)
    cdef uint32_t *w
    cdef uint32_t index, n
    cdef int kind
    for kind in range(BK_COUNT):
        n = min(fp_load_u32(&beat.touched[kind]), shm.at.budget_n[kind])
        for index in range(n):
            w = words(shm, kind, index)
            if fp_load_u32(&w[proc]):       # a store to a zero word would only dirty its line
                fp_release_u32(&w[proc], 0)
        fp_store_u32(&beat.touched[kind], 0)


cdef int budget_quiet(Shm *shm, int kind, uint32_t index) noexcept nogil:
    cdef uint64_t live = shm_live(shm)
    cdef uint32_t proc
    while live:
        proc = fp_lowest_bit(live)
        live &= live - 1
        if index < fp_load_u32(&shm_beat(shm, proc).touched[kind]) and fp_load_u32(&words(shm, kind, index)[proc]):
            return 0
    return 1
