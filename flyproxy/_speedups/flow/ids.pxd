# Random bytes and request ids. Ids come from the kernel's generator, fetched 4 KiB at a time; choices from a cheap
# one of our own.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from flyproxy._speedups.flow.worker cimport Worker

cdef enum:
    ULID_CHARS = 26

cdef void ids_init(Worker *w) noexcept nogil
cdef const uint8_t *random_bytes(Worker *w, uint32_t n) noexcept nogil     # good until the next call
cdef uint64_t random_choice(Worker *w) noexcept nogil
# ULID-region into out (48 bytes). Bytes written.
cdef uint32_t request_id(Worker *w, char *out) noexcept nogil
