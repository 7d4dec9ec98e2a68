"""Request ids: a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32), a hyphen and the region."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flyproxy._speedups.proto.text cimport put_base32

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *p, size_t n, unsigned int flags)


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
    put_base32(out, ms >> 10)               # ten digits: the first eight, and the last eight over them
    put_base32(out + 2, ms)
    memcpy(&part, bits, 8)
    put_base32(out + 10, part)
    memcpy(&part, bits + 2, 8)
    put_base32(out + 18, part >> 24)        # the last five of the ten bytes
    out[ULID_CHARS] = b'-'
    memcpy(out + ULID_CHARS + 1, w.config.region, w.config.region_n)
    return ULID_CHARS + 1 + w.config.region_n
