# csrc/fp_text.h: classes of bytes, comparing, writing. Extern only.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "fp_text.h" nogil:
    enum:
        FP_TOKEN
        FP_HOST
        FP_LOOK
        FP_BASE64
        FP_HEX
        FP_LOWER_HEX
        FP_DIGIT
        FP_QDTEXT
    bint is_class "fp_is"(char c, uint8_t classes) noexcept
    bint all_class "fp_all"(const char *p, uint32_t n, uint8_t classes) noexcept
    int hex_value "fp_hex_value"(char c) noexcept
    bint plain "fp_plain"(const char *p, uint32_t n) noexcept       # 1 to 8 bytes that JSON needs not escape
    bint equals "fp_equals"(const char *p, uint32_t n,
                            const char *literal) noexcept    # literal: lower case, case ignored in p
    bint starts "fp_starts"(const char *p, uint32_t n, const char *literal) noexcept
    bint same "fp_same"(const char *a, const char *b, uint32_t n) noexcept
    const char *find_byte "fp_find"(const char *p, const char *end, char c) noexcept   # p <= end; NULL: not there
    char *put "fp_put"(char *out, const char *p, uint32_t n) noexcept
    char *put_z "fp_put_z"(char *out, const char *literal) noexcept
    char *put_number "fp_put_decimal"(char *out, uint64_t value) noexcept
    char *put_octet "fp_put_octet"(char *out, uint32_t value) noexcept
    char *put_pair "fp_put_pair"(char *out, uint32_t value) noexcept
    char *put_hex4 "fp_put_hex4"(char *out, const uint8_t *p) noexcept
    char *put_hex_number "fp_put_hex"(char *out, uint64_t value) noexcept
    char *put_base32 "fp_put_base32"(char *out, uint64_t bits) noexcept     # the lowest 40

# A decimal number of a header field, at most `most`; 0 when it is none.
cdef inline uint32_t get_number(const char *p, uint32_t n, uint32_t most) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint32_t i
    if n > 9:
        return 0
    for i in range(n):
        if p[i] < c'0' or p[i] > c'9':
            return 0
        value = value * 10 + p[i] - c'0'
    return <uint32_t>value if value <= most else 0

# Two digits for each of n bytes, and back; 0: a character is no hex digit.
cdef inline void put_hex_bytes(char *out, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(0, n, 4):
        put_hex4(out + 2 * i, p + i)

cdef inline int get_hex_bytes(const char *p, uint8_t *out, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if hex_value(p[2 * i]) < 0 or hex_value(p[2 * i + 1]) < 0:
            return 0
        out[i] = <uint8_t>(hex_value(p[2 * i]) << 4 | hex_value(p[2 * i + 1]))
    return 1
