# What the C headers of this part offer. fp_atomic.h: load/store are relaxed; acquire/release are ordered against
# everything after/before; fence is sequentially consistent.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "fp_atomic.h" nogil:
    uint32_t fp_load_u32(const uint32_t *p) noexcept
    uint64_t fp_load_u64(const uint64_t *p) noexcept
    uint32_t fp_acquire_u32(const uint32_t *p) noexcept
    uint64_t fp_acquire_u64(const uint64_t *p) noexcept
    void fp_store_u32(uint32_t *p, uint32_t v) noexcept
    void fp_store_u64(uint64_t *p, uint64_t v) noexcept
    void fp_release_u32(uint32_t *p, uint32_t v) noexcept
    void fp_release_u64(uint64_t *p, uint64_t v) noexcept
    uint64_t fp_or_u64(uint64_t *p, uint64_t v) noexcept
    uint64_t fp_and_u64(uint64_t *p, uint64_t v) noexcept
    int fp_cas_u64(uint64_t *p, uint64_t expected, uint64_t v) noexcept
    void fp_fence() noexcept
    void fp_fence_acquire() noexcept
    void fp_pause() noexcept
    void fp_prefetch(const void *p) noexcept
    uint32_t fp_lowest_bit(uint64_t mask) noexcept      # undefined for 0
    uint32_t fp_bits(uint64_t mask) noexcept
    uint32_t fp_bit_length(uint64_t v) noexcept
    uint32_t fp_scale(uint32_t v, uint32_t n) noexcept

cdef extern from "fp_siphash.h" nogil:
    uint64_t fp_siphash13(const uint64_t *key, const void *bytes, uint32_t n) noexcept
    uint64_t fp_split(uint64_t seed, uint32_t n) noexcept

cdef extern from "fp_shm_sys.h" nogil:
    const char *const *FP_SEGMENT_NAMES                 # in Segment order, as /proc/PID/maps shows them
    int fp_memfd(const char *name, uint64_t size) noexcept
    long long fp_file_size(int fd) noexcept
    void *fp_map(int fd, uint64_t size, int writable) noexcept
    int fp_punch(void *at, uint64_t size) noexcept
    void fp_eventfd_wake(int fd) noexcept
    uint64_t fp_monotonic_ns() noexcept

cdef extern from "fp_metrics.h" nogil:
    ctypedef struct fp_family:
        const char *name
        const char *type
        const char *help
    const fp_family *FP_FAMILIES
    const uint64_t *FP_BUCKETS_US
    const char *const *FP_BUCKETS_LE
    const char *const *FP_LIMIT_NAMES
    const char *const *FP_HELLO_NAMES
    const char *const *FP_RETRY_NAMES
    const char *const *FP_MEMORY_NAMES

cdef extern from "errors_table.h" nogil:
    ctypedef struct fp_error_row:
        const char *code
    const fp_error_row *FP_ERRORS                       # by ErrorCode
