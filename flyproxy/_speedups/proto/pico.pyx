# The one place that calls picohttpparser, and the choice between its two objects: SSE4.2 where the CPU has it, unless
# FLYPROXY_SIMD=0. An 80-byte head takes 48 ns with it and 54 ns without. The choice is made once, at import.
import os

cdef extern from "fp_pico.h" nogil:
    int fp_cpu_has_sse42() noexcept
    int fp_pico_request_sse42(const char *, size_t, const char **, size_t *, const char **, size_t *, int *,
                              phr_header *,
                              size_t *, size_t) noexcept
    int fp_pico_request_plain(const char *, size_t, const char **, size_t *, const char **, size_t *, int *,
                              phr_header *,
                              size_t *, size_t) noexcept
    int fp_pico_response_sse42(const char *, size_t, int *, int *, const char **, size_t *, phr_header *, size_t *,
                               size_t) noexcept
    int fp_pico_response_plain(const char *, size_t, int *, int *, const char **, size_t *, phr_header *, size_t *,
                               size_t) noexcept
    int fp_pico_headers_sse42(const char *, size_t, phr_header *, size_t *, size_t) noexcept
    int fp_pico_headers_plain(const char *, size_t, phr_header *, size_t *, size_t) noexcept

cdef int simd = fp_cpu_has_sse42() and os.environ.get("FLYPROXY_SIMD") != "0"


cdef int pico_request(const char *buf, size_t n, const char **method, size_t *method_n, const char **target,
                      size_t *target_n,
                      int *minor, phr_header *headers, size_t *count) noexcept nogil:
    if simd:
        return fp_pico_request_sse42(buf, n, method, method_n, target, target_n, minor, headers, count, 0)
    return fp_pico_request_plain(buf, n, method, method_n, target, target_n, minor, headers, count, 0)


cdef int pico_response(const char *buf, size_t n, int *minor, int *status, const char **reason, size_t *reason_n,
                       phr_header *headers, size_t *count) noexcept nogil:
    if simd:
        return fp_pico_response_sse42(buf, n, minor, status, reason, reason_n, headers, count, 0)
    return fp_pico_response_plain(buf, n, minor, status, reason, reason_n, headers, count, 0)


cdef int pico_headers(const char *buf, size_t n, phr_header *headers, size_t *count) noexcept nogil:
    if simd:
        return fp_pico_headers_sse42(buf, n, headers, count, 0)
    return fp_pico_headers_plain(buf, n, headers, count, 0)


cdef int pico_simd() noexcept nogil:
    return simd
