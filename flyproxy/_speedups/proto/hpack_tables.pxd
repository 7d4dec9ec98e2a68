# csrc/fp_hpack.h and the generated csrc/hpack_tables.h. Extern only.
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from "fp_hpack.h" nogil:
    enum:
        HPACK_BAD_INTEGER
    ctypedef struct StaticField "struct hpack_static":
        const char *name
        const char *value
        uint8_t name_n
        uint8_t value_n
    const StaticField *hpack_static
    uint32_t take_integer "fp_hpack_integer"(const uint8_t **at, const uint8_t *end, uint32_t prefix) noexcept
    char *put_integer "fp_hpack_put_integer"(char *out, uint8_t first, uint32_t prefix, uint32_t value) noexcept
    int64_t huffman_decode "fp_huffman_decode"(const uint8_t *p, uint32_t n, char *out) noexcept
    uint32_t huffman_bytes "fp_huffman_bytes"(const char *p, uint32_t n) noexcept
    char *huffman_encode "fp_huffman_encode"(const char *p, uint32_t n, char *out) noexcept
    bint field_value_valid "fp_field_value"(const char *p, uint32_t n) noexcept
    bint field_name_valid "fp_field_name"(const char *p, uint32_t n) noexcept
    uint32_t field_hash "fp_field_hash"(const char *name, uint32_t name_n) noexcept
