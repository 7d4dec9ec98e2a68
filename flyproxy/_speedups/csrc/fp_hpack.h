/* The coding of integers and strings in HPACK (RFC 7541 5), and which bytes a field may hold (RFC 9113 8.2.1).
 *
 * Nothing here reads or writes outside the ranges that it is given.
 */
#ifndef FLYPROXY_HPACK_H
#define FLYPROXY_HPACK_H

#include "fp_text.h"
#include "hpack_tables.h"

/* -- integers: 5.1. Values above 2^28 have no use in HTTP/2 and are refused, and so is padding with zero groups. */
enum { HPACK_BAD_INTEGER = 0xffffffffu };

FP_INLINE uint32_t fp_hpack_integer(const uint8_t **at, const uint8_t *end, uint32_t prefix)
{
    uint32_t most = (1u << prefix) - 1, value = *(*at)++ & most;
    if (value < most)
        return value;
    for (uint32_t shift = 0; shift <= 21; shift += 7) {
        if (*at == end)
            return HPACK_BAD_INTEGER;
        uint8_t byte = *(*at)++;
        value += (uint32_t)(byte & 127) << shift;
        if (byte < 128)
            return value;
    }
    return HPACK_BAD_INTEGER;
}

/* At most 6 bytes. `first` has the bits above the prefix. */
FP_INLINE char *fp_hpack_put_integer(char *out, uint8_t first, uint32_t prefix, uint32_t value)
{
    uint32_t most = (1u << prefix) - 1;
    if (value < most) {
        *out++ = (char)(first | value);
        return out;
    }
    *out++ = (char)(first | most);
    for (value -= most; value >= 128; value >>= 7)
        *out++ = (char)(value | 128);
    *out++ = (char)value;
    return out;
}

/* -- Huffman: 5.2 */

/* A code longer than the window, its first bit at the top of `word`; NULL when fewer than its bits are left. */
static inline const struct hpack_long *fp_huffman_long(uint32_t word, int left)
{
    int low = 0, high = HPACK_LONG - 1;
    while (low < high) {  /* the last code that is not above the word */
        int middle = (low + high + 1) / 2;
        if (hpack_longs[middle].code <= word)
            low = middle;
        else
            high = middle - 1;
    }
    return hpack_longs[low].bits <= left ? &hpack_longs[low] : 0;
}

/* Bytes written, or -1 for a code that is cut, EOS, or padding that is not the beginning of EOS, of 7 bits at most.
 * out has room for 8 * n / 5 + 2 bytes: the shortest code has 5 bits, and a step may write two bytes and mean one. */
static inline int64_t fp_huffman_decode(const uint8_t *p, uint32_t n, char *out)
{
    const uint8_t *end = p + n;
    char *start = out;
    uint64_t word = 0;  /* the next bits, at the top */
    int left = 0;
    for (;;) {
        if (left <= 32 && p < end) {
            if (end - p >= 4) {
                uint32_t four;
                memcpy(&four, p, 4);
                word |= (uint64_t)__builtin_bswap32(four) << (32 - left);
                left += 32;
                p += 4;
            } else {
                while (p < end) {
                    word |= (uint64_t)*p++ << (56 - left);
                    left += 8;
                }
            }
        }
        const struct hpack_step *step = &hpack_steps[word >> (64 - HPACK_WINDOW)];
        if (step->symbols && step->bits <= left) {
            out[0] = (char)step->first;
            out[1] = (char)step->second;
            out += step->symbols;
            word <<= step->bits;
            left -= step->bits;
            continue;
        }
        if (step->symbols && hpack_codes[step->first].bits <= left) {  /* the last symbol; the second was padding */
            *out++ = (char)step->first;
            word <<= hpack_codes[step->first].bits;
            left -= hpack_codes[step->first].bits;
            continue;
        }
        if (left < 8 && p == end && word >> 56 == (0xff00u >> left & 0xff))
            return out - start;
        const struct hpack_long *code = step->symbols ? 0 : fp_huffman_long((uint32_t)(word >> 32), left);
        if (!code || code->symbol > 255)
            return -1;
        *out++ = (char)code->symbol;
        word <<= code->bits;
        left -= code->bits;
    }
}

FP_INLINE uint32_t fp_huffman_bytes(const char *p, uint32_t n)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < n; i++)
        bits += hpack_codes[(uint8_t)p[i]].bits;
    return (uint32_t)((bits + 7) / 8);
}

/* Writes exactly fp_huffman_bytes(p, n) bytes. */
FP_INLINE char *fp_huffman_encode(const char *p, uint32_t n, char *out)
{
    uint64_t word = 0;
    int filled = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct hpack_code *code = &hpack_codes[(uint8_t)p[i]];
        word = word << code->bits | code->code;
        for (filled += code->bits; filled >= 8; filled -= 8)
            *out++ = (char)(word >> (filled - 8));
    }
    if (filled)
        *out++ = (char)(word << (8 - filled) | 0xffu >> filled);
    return out;
}

/* -- fields */

/* 1 for a value without control characters but tab, and without white space at its ends: what HTTP/1 could not carry
 * is refused, too. */
FP_INLINE int fp_field_value(const char *p, uint32_t n)
{
    if (n == 0)
        return 1;
    if (p[0] == ' ' || p[0] == '\t' || p[n - 1] == ' ' || p[n - 1] == '\t')
        return 0;
    for (uint32_t i = 0; i < n; i++)
        if (((uint8_t)p[i] < 32 && p[i] != '\t') || p[i] == 127)
            return 0;
    return 1;
}

/* 1 for a token without upper-case letters. */
FP_INLINE int fp_field_name(const char *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!fp_is(p[i], FP_TOKEN) || (p[i] >= 'A' && p[i] <= 'Z'))
            return 0;
    return n > 0;
}

/* For finding a field in a small table; collisions cost a comparison. */
FP_INLINE uint32_t fp_field_hash(const char *name, uint32_t name_n)
{
    uint64_t word = name_n ? fp_word(name, name_n) : 0;
    uint64_t tail = name_n > 8 ? fp_load8(name + name_n - 8) : 0;
    uint64_t mixed = (word ^ (tail << 1 | tail >> 63) ^ name_n) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(mixed >> 32);
}

#endif
