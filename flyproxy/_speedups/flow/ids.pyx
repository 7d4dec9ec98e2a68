"""Request ids: a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32), a hyphen and the region."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *p, size_t n, unsigned int flags)

cdef extern from *:
    """
    static const char FP_CROCKFORD[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    """
    const char *FP_CROCKFORD


cdef void refill(Worker *w) noexcept nogil:
    cdef uint32_t got = 0
    cdef ssize_t n
    while got < sizeof(w.random):       # up to 256 bytes are never interrupted; more may be (getrandom(2))
        n = getrandom(w.random + got, sizeof(w.random) - got, 0)
        if n > 0:
            got += <uint32_t>n
    w.random_n = 0


cdef void ids_init(Worker *w) noexcept nogil:
    refill(w)
    memcpy(&w.xorshift, random_bytes(w, 8), 8)
    w.xorshift |= 1


cdef const uint8_t *random_bytes(Worker *w, uint32_t n) noexcept nogil:
    if w.random_n + n > sizeof(w.random):
        refill(w)
    w.random_n += n
    return w.random + w.random_n - n


cdef uint64_t random_choice(Worker *w) noexcept nogil:
    w.xorshift ^= w.xorshift << 13      # Marsaglia's xorshift64
    w.xorshift ^= w.xorshift >> 7
    w.xorshift ^= w.xorshift << 17
    return w.xorshift


cdef uint32_t request_id(Worker *w, char *out) noexcept nogil:
    cdef const uint8_t *bits = random_bytes(w, 10)
    cdef uint64_t ms = w.reactor.wall_us / 1000
    cdef uint64_t part
    cdef int k, half
    for k in range(9, -1, -1):
        out[k] = FP_CROCKFORD[ms & 31]
        ms >>= 5
    for half in range(2):               # 2 x 40 bits, 8 characters each
        part = 0
        for k in range(5):
            part = (part << 8) | bits[half * 5 + k]
        for k in range(7, -1, -1):
            out[10 + half * 8 + k] = FP_CROCKFORD[part & 31]
            part >>= 5
    out[ULID_CHARS] = b'-'
    memcpy(out + ULID_CHARS + 1, w.region, w.region_n)
    return ULID_CHARS + 1 + w.region_n
