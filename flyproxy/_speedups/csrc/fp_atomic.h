/* Atomics on words in shared memory, by name of what they promise. Every shared word is aligned and at most 8 bytes, so
 * a plain access would not tear either; these also keep the compiler from caching, splitting or reordering it. */
#ifndef FLYPROXY_ATOMIC_H
#define FLYPROXY_ATOMIC_H
#include <stdint.h>

static inline uint32_t fp_load_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t fp_load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint32_t fp_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t fp_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void fp_store_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void fp_store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void fp_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void fp_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t fp_or_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
static inline uint64_t fp_and_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }

/* Stores v if *p is still `expected`; 1 when it did. */
static inline int fp_cas_u64(uint64_t *p, uint64_t expected, uint64_t v)
{
    return __atomic_compare_exchange_n(p, &expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline void fp_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void fp_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void fp_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline uint32_t fp_lowest_bit(uint64_t mask) { return (uint32_t)__builtin_ctzll(mask); }
static inline uint32_t fp_bits(uint64_t mask) { return (uint32_t)__builtin_popcountll(mask); }

static inline void fp_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* floor(log2(v)) + 1, 0 for 0: how many bits v takes. */
static inline uint32_t fp_bit_length(uint64_t v) { return v ? 64u - (uint32_t)__builtin_clzll(v) : 0u; }

/* v * n / 2^32 for a random v: an index below n without a division. */
static inline uint32_t fp_scale(uint32_t v, uint32_t n) { return (uint32_t)(((uint64_t)v * n) >> 32); }
#endif
