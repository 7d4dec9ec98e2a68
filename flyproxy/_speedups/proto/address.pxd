# IP addresses as text, both ways; 16 bytes each, v4 as v4-mapped (::ffff:a.b.c.d).
from libc.stdint cimport uint8_t, uint32_t

# Exactly one canonical-form dotted quad (no leading zeros) / one IPv6 text of RFC 4291 2.2 without zone. 1 or 0.
cdef int address_parse_v4(const char *p, uint32_t n, uint8_t *out) noexcept nogil
cdef int address_parse_v6(const char *p, uint32_t n, uint8_t *out) noexcept nogil
# RFC 5952 text without NUL; a v4-mapped address as dotted quad. out has room for 46. Bytes written.
cdef uint32_t put_address(const uint8_t *address, char *out) noexcept nogil
# The same, but always in IPv6 form.
cdef uint32_t put_address_v6(const uint8_t *address, char *out) noexcept nogil
