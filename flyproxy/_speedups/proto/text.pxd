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
    bint equals "fp_equals"(const char *p, uint32_t n,
                            const char *literal) noexcept    # literal: lower case, case ignored in p
    bint starts "fp_starts"(const char *p, uint32_t n, const char *literal) noexcept
    bint same "fp_same"(const char *a, const char *b, uint32_t n) noexcept
    char *put "fp_put"(char *out, const char *p, uint32_t n) noexcept
    char *put_z "fp_put_z"(char *out, const char *literal) noexcept
    char *put_number "fp_put_decimal"(char *out, uint64_t value) noexcept
    char *put_pair "fp_put_pair"(char *out, uint32_t value) noexcept
    char *put_hex4 "fp_put_hex4"(char *out, const uint8_t *p) noexcept
    char *put_hex_number "fp_put_hex"(char *out, uint64_t value) noexcept
