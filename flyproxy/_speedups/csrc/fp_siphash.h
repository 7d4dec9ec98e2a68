/* SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", with 1 compression and 3 finalisation rounds).
 * Keyed, so that nobody who does not know the key can make names or balance keys collide. */
#ifndef FLYPROXY_SIPHASH_H
#define FLYPROXY_SIPHASH_H
#include <stdint.h>
#include <string.h>

static inline uint64_t fp_sip_rotl(uint64_t x, int b) { return (x << b) | (x >> (64 - b)); }

static inline void fp_sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[1] = fp_sip_rotl(v[1], 13); v[1] ^= v[0]; v[0] = fp_sip_rotl(v[0], 32);
    v[2] += v[3]; v[3] = fp_sip_rotl(v[3], 16); v[3] ^= v[2];
    v[0] += v[3]; v[3] = fp_sip_rotl(v[3], 21); v[3] ^= v[0];
    v[2] += v[1]; v[1] = fp_sip_rotl(v[1], 17); v[1] ^= v[2]; v[2] = fp_sip_rotl(v[2], 32);
}

static inline uint64_t fp_sip_load(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* `key`: two words; the hash of n bytes at p. */
static inline uint64_t fp_siphash13(const uint64_t *key, const void *bytes, uint32_t n)
{
    const uint8_t *p = bytes;
    const uint8_t *end = p + (n & ~7u);
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
                     key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u};
    uint64_t last = (uint64_t)n << 56;

    for (; p < end; p += 8) {
        uint64_t word = fp_sip_load(p);
        v[3] ^= word;
        fp_sip_round(v);
        v[0] ^= word;
    }
    for (uint32_t i = 0; i < (n & 7u); i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    fp_sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    fp_sip_round(v);
    fp_sip_round(v);
    fp_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The n-th number of the SplitMix64 sequence that begins at `seed` (Steele, Lea, Flood: "Fast splittable pseudorandom
 * number generators"): many even words from one hash. */
static inline uint64_t fp_split(uint64_t seed, uint32_t n)
{
    uint64_t z = seed + (n + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
#endif
