from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_cas_u64, fp_fence, fp_load_u64, fp_split
from flyproxy._speedups.shm.segments cimport SEG_LOAD, Shm

cdef enum:
    MINUTE_BITS = 16            # of a word; the bits above are the nonce's
    MINUTES = 65535             # then their numbers begin again; a multiple of REPLAY_TABLES


cdef inline uint64_t *table_of(Shm *shm, uint64_t minute) noexcept nogil:
    return <uint64_t *>(shm.base[SEG_LOAD] + shm.at.replay) + minute % REPLAY_TABLES * REPLAY_SLOTS


cdef inline uint64_t number_of(uint64_t minute) noexcept nogil:
    """Never 0, which an untouched slot holds."""
    return minute % MINUTES + 1


cdef inline uint64_t word_of(uint64_t mixed, uint64_t minute) noexcept nogil:
    return mixed >> MINUTE_BITS << MINUTE_BITS | number_of(minute)


cdef inline int of_minute(uint64_t word, uint64_t minute) noexcept nogil:
    return word & ((1 << MINUTE_BITS) - 1) == number_of(minute)


cdef int find(Shm *shm, uint64_t mixed, uint64_t minute) noexcept nogil:
    """1: it was seen in that minute."""
    cdef const uint64_t *slots = table_of(shm, minute)
    cdef uint64_t wanted = word_of(mixed, minute), at = mixed, word
    cdef uint32_t _probe
    for _probe in range(<uint32_t>REPLAY_PROBES):
        word = fp_load_u64(&slots[at & (REPLAY_SLOTS - 1)])
        if word == wanted:
            return 1
        if not of_minute(word, minute):
            return 0
        at += 1
    return 0


cdef inline int near(Shm *shm, uint64_t mixed, uint64_t minute) noexcept nogil:
    return find(shm, mixed, minute - 1) or find(shm, mixed, minute + 1)


cdef int insert(Shm *shm, uint64_t mixed, uint64_t minute) noexcept nogil:
    """0: it is in now; 1: it was; -1: no room."""
    cdef uint64_t *slots = table_of(shm, minute)
    cdef uint64_t wanted = word_of(mixed, minute), at = mixed, word
    cdef uint32_t _probe = 0
    while _probe < REPLAY_PROBES:
        word = fp_load_u64(&slots[at & (REPLAY_SLOTS - 1)])
        if word == wanted:
            return 1
        if not of_minute(word, minute):
            if fp_cas_u64(&slots[at & (REPLAY_SLOTS - 1)], word, wanted):
                return 0
            continue            # somebody was faster: whose word is it?
        at += 1
        _probe += 1
    return -1


cdef int replay_seen(Shm *shm, uint64_t nonce, uint64_t now_s) noexcept nogil:
    cdef uint64_t mixed = fp_split(nonce, 0)    # one to one: no two nonces share all of place and word
    cdef uint64_t minute = now_s // REPLAY_SECONDS + 1
    cdef int result
    if near(shm, mixed, minute):
        return 1
    result = insert(shm, mixed, minute)
    if result != 0:
        return result
    fp_fence()      # against one who stands on the other side of a turn of the minute
    return near(shm, mixed, minute)
