# What the fuzzer calls, found by name in __pyx_capi__. 0: every promise held; else the number of the broken one.
from libc.stdint cimport uint8_t, uint32_t

cdef int fuzz_request(const uint8_t *data, uint32_t n) noexcept nogil
cdef int fuzz_response(const uint8_t *data, uint32_t n) noexcept nogil
cdef int fuzz_chunked(const uint8_t *data, uint32_t n) noexcept nogil
cdef int fuzz_proxy(const uint8_t *data, uint32_t n) noexcept nogil
cdef int fuzz_hello(const uint8_t *data, uint32_t n) noexcept nogil
cdef int fuzz_hpack(const uint8_t *data, uint32_t n) noexcept nogil
cdef int fuzz_frames(const uint8_t *data, uint32_t n) noexcept nogil
