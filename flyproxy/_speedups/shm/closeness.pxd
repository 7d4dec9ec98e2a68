# How far the other hosts are: one 64-bit word of the load segment per host slot, written by control alone, read with
# one load by everybody. 0 is "not measured yet": such a host is tried directly.
#
#   bits 0-31 round trip in µs · 32-47 host slot of the relay (HS_VIA) · 48-55 state
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_load_u64, fp_release_u64
from flyproxy._speedups.shm.segments cimport SEG_LOAD, Shm
from flyproxy._speedups.shm.table cimport HOSTS_MAX

cdef enum:                      # of a host, as control has measured it
    HS_UNKNOWN = 0              # not measured: tried directly
    HS_DIRECT                   # answers on the direct path
    HS_VIA                      # not directly, but through the host in host_via
    HS_DOWN                     # on no path: its machines are no candidates

cdef inline uint64_t *host_words(Shm *shm) noexcept nogil:
    return <uint64_t *>(shm.base[SEG_LOAD] + shm.at.host_words)

# 0 (HS_UNKNOWN) for a slot that does not exist.
cdef inline uint64_t host_word(Shm *shm, uint32_t slot) noexcept nogil:
    return fp_load_u64(&host_words(shm)[slot]) if slot < HOSTS_MAX else 0

cdef inline uint32_t host_state(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 48) & 0xFF

# Means something with HS_VIA only; the table is input: table_host says whether that slot has a host.
cdef inline uint32_t host_via(uint64_t word) noexcept nogil:
    return <uint32_t>(word >> 32) & 0xFFFF

cdef inline uint32_t host_rtt_us(uint64_t word) noexcept nogil:
    return <uint32_t>word

# `slot` below HOSTS_MAX; the load segment is mapped for writing.
cdef inline void host_word_set(Shm *shm, uint32_t slot, uint64_t word) noexcept nogil:
    fp_release_u64(&host_words(shm)[slot], word)
