/* Text in and out, byte by byte at the speed of words: what every codec of proto/ shares.
 *
 * Nothing here reads or writes a byte outside the ranges that it is given, so an input may end at an unmapped page.
 * "Lower" comparisons or 0x20 into each byte. That is exact for literals of letters, digits and "-./" as long as the
 * other side holds no control characters, which the callers have refused before.
 */
#ifndef FLYPROXY_TEXT_H
#define FLYPROXY_TEXT_H

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define FP_INLINE static inline __attribute__((always_inline, unused))

/* -- classes of bytes */
enum {
    FP_TOKEN = 1,      /* RFC 9110 5.6.2 */
    FP_HOST = 2,       /* host names as we accept them: letters, digits, "-", ".", "_" */
    FP_LOOK = 4,       /* a request target with one of these needs a closer look, or is refused */
    FP_BASE64 = 8,     /* RFC 4648 4, without "=" */
    FP_HEX = 16,
    FP_LOWER_HEX = 32,
    FP_DIGIT = 64,
    FP_QDTEXT = 128,   /* RFC 9110 5.6.4, obs-text included */
};

#define FP_NAME_ (FP_TOKEN | FP_HOST | FP_BASE64 | FP_QDTEXT)
#define FP_MARK_ (FP_TOKEN | FP_QDTEXT)

static const uint8_t fp_class[256] __attribute__((unused)) = {
    [0 ... 8] = FP_LOOK, ['\t'] = FP_LOOK | FP_QDTEXT, [10 ... 31] = FP_LOOK, [' '] = FP_LOOK | FP_QDTEXT,
    [127] = FP_LOOK,
    [128 ... 255] = FP_LOOK | FP_QDTEXT,
    ['0' ... '9'] = FP_NAME_ | FP_HEX | FP_LOWER_HEX | FP_DIGIT,
    ['a' ... 'f'] = FP_NAME_ | FP_HEX | FP_LOWER_HEX, ['g' ... 'z'] = FP_NAME_,
    ['A' ... 'F'] = FP_NAME_ | FP_HEX, ['G' ... 'Z'] = FP_NAME_,
    ['-'] = FP_MARK_ | FP_HOST, ['_'] = FP_MARK_ | FP_HOST, ['.'] = FP_MARK_ | FP_HOST | FP_LOOK,
    ['%'] = FP_MARK_ | FP_LOOK, ['#'] = FP_MARK_ | FP_LOOK, ['+'] = FP_MARK_ | FP_BASE64,
    ['!'] = FP_MARK_, ['$'] = FP_MARK_, ['&'] = FP_MARK_, ['\''] = FP_MARK_, ['*'] = FP_MARK_,
    ['^'] = FP_MARK_, ['`'] = FP_MARK_, ['|'] = FP_MARK_, ['~'] = FP_MARK_,
    ['/'] = FP_BASE64 | FP_QDTEXT, ['('] = FP_QDTEXT, [')'] = FP_QDTEXT, [','] = FP_QDTEXT, [':'] = FP_QDTEXT,
    [';'] = FP_QDTEXT, ['<'] = FP_QDTEXT, ['='] = FP_QDTEXT, ['>'] = FP_QDTEXT, ['?'] = FP_QDTEXT | FP_LOOK,
    ['@'] = FP_QDTEXT,
    ['['] = FP_QDTEXT, [']'] = FP_QDTEXT, ['{'] = FP_QDTEXT, ['}'] = FP_QDTEXT,
};

FP_INLINE int fp_is(char c, uint8_t classes)
{
    return fp_class[(uint8_t)c] & classes;
}

FP_INLINE int fp_hex_value(char c)  /* of a byte that is FP_HEX */
{
    return (c & 15) + (c >> 6) * 9;
}

/* 1 when every byte is in one of the classes; true of no bytes. */
FP_INLINE int fp_all(const char *p, uint32_t n, uint8_t classes)
{
    for (uint32_t i = 0; i < n; i++)
        if (!fp_is(p[i], classes))
            return 0;
    return 1;
}

/* -- comparing */
#define FP_LOWER 0x2020202020202020ull

FP_INLINE uint64_t fp_load8(const char *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

FP_INLINE uint32_t fp_load4(const char *p)
{
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* The first min(n, 8) bytes as one word, the rest zero; n >= 1. Overlapping loads, because p[n] may not exist. */
FP_INLINE uint64_t fp_word(const char *p, uint32_t n)
{
    if (n >= 8)
        return fp_load8(p);
    if (n >= 4)
        return fp_load4(p) | (uint64_t)fp_load4(p + n - 4) << (n - 4) * 8;
    uint64_t middle = (uint8_t)p[n / 2], last = (uint8_t)p[n - 1];
    return (uint8_t)p[0] | middle << n / 2 * 8 | last << (n - 1) * 8;
}

/* 1 when none of n bytes, 1 to 8, is below 0x20, over 0x7e, a quote or a backslash: none must be escaped in JSON.
 * The high bits of the sums tell; a byte of 0x80 or more has its own. */
FP_INLINE int fp_plain(const char *p, uint32_t n)
{
#define FP_EACH_ 0x0101010101010101ull
    uint64_t x = fp_word(p, n) | (n < 8 ? 0x20 * FP_EACH_ << n * 8 : 0);
#define FP_ZERO_(y) (((y) - FP_EACH_) & ~(y))
    uint64_t bad = x | (x - 0x20 * FP_EACH_) | (x + FP_EACH_) | FP_ZERO_(x ^ '"' * FP_EACH_)
        | FP_ZERO_(x ^ '\\' * FP_EACH_);
    return (bad & 0x80 * FP_EACH_) == 0;
#undef FP_ZERO_
#undef FP_EACH_
}

FP_INLINE uint64_t fp_lower_word(const char *p, uint32_t n)
{
    return fp_word(p, n) | (n >= 8 ? FP_LOWER : FP_LOWER >> (8 - n) * 8);
}

/* The word of a literal; folds to a constant. */
FP_INLINE uint64_t fp_literal(const char *literal)
{
    uint64_t word = 0;
    memcpy(&word, literal, strlen(literal) < 8 ? strlen(literal) : 8);
    return word;
}

/* Compares what fp_word has left over; n is a constant at every call, so the loop unrolls. */
FP_INLINE int fp_same_tail(const char *p, const char *literal, uint32_t n)
{
    if (n <= 8)
        return 1;
    for (uint32_t i = 8; i + 8 < n; i += 8)
        if ((fp_load8(p + i) | FP_LOWER) != fp_load8(literal + i))
            return 0;
    return (fp_load8(p + n - 8) | FP_LOWER) == fp_load8(literal + n - 8);
}

/* Case-insensitive equality with a lower-case literal. */
FP_INLINE int fp_equals(const char *p, uint32_t n, const char *literal)
{
    uint32_t length = (uint32_t)strlen(literal);
    return n == length && fp_lower_word(p, n) == fp_literal(literal) && fp_same_tail(p, literal, length);
}

FP_INLINE int fp_starts(const char *p, uint32_t n, const char *literal)
{
    return n >= strlen(literal) && fp_equals(p, strlen(literal), literal);
}

/* Case-insensitive equality of two texts of one length, neither of them a literal. */
FP_INLINE int fp_same(const char *a, const char *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        char x = a[i] >= 'A' && a[i] <= 'Z' ? a[i] | 0x20 : a[i];
        char y = b[i] >= 'A' && b[i] <= 'Z' ? b[i] | 0x20 : b[i];
        if (x != y)
            return 0;
    }
    return 1;
}

/* The first c in [p, end), or NULL: memchr for lines, whose ends are so near that the call would cost most. */
FP_INLINE const char *fp_find(const char *p, const char *end, char c)
{
#ifdef __SSE2__
    const __m128i wanted = _mm_set1_epi8(c);
    for (; end - p >= 16; p += 16) {
        int hits = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), wanted));
        if (hits)
            return p + __builtin_ctz((unsigned)hits);
    }
#endif
    return (const char *)memchr(p, c, (size_t)(end - p));
}

/* -- writing: each returns the byte after what it wrote */
FP_INLINE char *fp_put(char *out, const char *p, uint32_t n)
{
    if (n > 16) {
        if (n > 128)
            return (char *)memcpy(out, p, n) + n;
        for (uint32_t i = 0; i + 16 < n; i += 16)
            memcpy(out + i, p + i, 16);
        char last[16];  /* the tail overlaps: header lines are short, and a library call costs more than the copy */
        memcpy(last, p + n - 16, 16);
        memcpy(out + n - 16, last, 16);
    } else if (n >= 8) {
        uint64_t first = fp_load8(p), last = fp_load8(p + n - 8);
        memcpy(out, &first, 8);
        memcpy(out + n - 8, &last, 8);
    } else if (n >= 4) {
        uint32_t first = fp_load4(p), last = fp_load4(p + n - 4);
        memcpy(out, &first, 4);
        memcpy(out + n - 4, &last, 4);
    } else if (n) {
        char middle = p[n / 2], last = p[n - 1];
        out[0] = p[0];
        out[n / 2] = middle;
        out[n - 1] = last;
    }
    return out + n;
}

/* A literal: strlen folds, the copy becomes a few moves. */
FP_INLINE char *fp_put_z(char *out, const char *literal)
{
    return (char *)memcpy(out, literal, strlen(literal)) + strlen(literal);
}

static const char fp_pairs[] __attribute__((unused)) =
    "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
    "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/* log10(value) is log2(value) * 1233 / 4096 to the integer, or one more: the power tells. */
FP_INLINE uint32_t fp_digits(uint64_t value)
{
    static const uint64_t powers[20] = {
        0, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000,
        1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000, 100000000000000000,
        1000000000000000000, 10000000000000000000u,
    };
    uint32_t guess = (uint32_t)(64 - __builtin_clzll(value | 1)) * 1233 >> 12;
    return guess + (value >= powers[guess]);
}

FP_INLINE char *fp_put_decimal(char *out, uint64_t value)
{
    uint32_t n = fp_digits(value);
    char *p = out + n;
    while (value >= 100) {
        p -= 2;
        memcpy(p, fp_pairs + value % 100 * 2, 2);
        value /= 100;
    }
    if (value >= 10)
        memcpy(out, fp_pairs + value * 2, 2);
    else
        *out = (char)('0' + value);
    return out + n;
}

/* A number below 256. */
FP_INLINE char *fp_put_octet(char *out, uint32_t value)
{
    if (value >= 100) {
        *out++ = (char)('0' + value / 100);
        value %= 100;
    } else if (value < 10) {
        *out = (char)('0' + value);
        return out + 1;
    }
    memcpy(out, fp_pairs + value * 2, 2);
    return out + 2;
}

/* Two decimal digits with a leading zero; value < 100. */
FP_INLINE char *fp_put_pair(char *out, uint32_t value)
{
    out[0] = (char)('0' + value / 10);
    out[1] = (char)('0' + value % 10);
    return out + 2;
}

/* Four bytes as eight lower-case hex digits: nibbles are spread into bytes and corrected all at once. */
FP_INLINE char *fp_put_hex4(char *out, const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, 4);
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffull;
    x = (x | x << 8) & 0x00ff00ff00ff00ffull;
    x = (x >> 4 | x << 8) & 0x0f0f0f0f0f0f0f0full;
    uint64_t letters = (x + 0x0606060606060606ull) >> 4 & 0x0101010101010101ull;
    x += 0x3030303030303030ull + letters * ('a' - '0' - 10);
    memcpy(out, &x, 8);
    return out + 8;
}

/* 40 bits as eight digits of Crockford's base 32 ("0-9A-Z" without I, L, O, U): groups of five bits are spread into
 * bytes, then every byte that has reached a gap of the alphabet goes one further, all at once. */
FP_INLINE char *fp_put_base32(char *out, uint64_t bits)
{
    uint64_t x = (bits & 0xfffff) << 32 | (bits >> 20 & 0xfffff);                /* 20 bits in each half */
    x = (x & 0x000003ff000003ffull) << 16 | (x >> 10 & 0x000003ff000003ffull);   /* 10 in each quarter */
    x = (x & 0x001f001f001f001full) << 8 | (x >> 5 & 0x001f001f001f001full);     /* 5 in each byte, the first lowest */
#define FP_FROM_(value) ((x + (0x80 - (value)) * 0x0101010101010101ull) >> 7 & 0x0101010101010101ull)
    x += '0' * 0x0101010101010101ull + FP_FROM_(10) * ('A' - '0' - 10) + FP_FROM_(18) + FP_FROM_(20) + FP_FROM_(22)
        + FP_FROM_(27);
#undef FP_FROM_
    memcpy(out, &x, 8);
    return out + 8;
}

/* Hex digits of a number, no leading zeros. */
FP_INLINE char *fp_put_hex(char *out, uint64_t value)
{
    int shift = value ? (63 - __builtin_clzll(value)) / 4 * 4 : 0;
    for (; shift >= 0; shift -= 4)
        *out++ = "0123456789abcdef"[value >> shift & 15];
    return out;
}

#endif
