# picohttpparser behind one name: > 0 bytes used; -1 malformed; -2 more needed. It is laxer than we are (bare LF,
# obs-fold, runs of spaces): callers check what it lets through.

cdef extern from "picohttpparser.h" nogil:
    struct phr_header:
        const char *name        # NULL: an obs-fold line
        size_t name_len
        const char *value
        size_t value_len

cdef int pico_request(const char *buf, size_t n, const char **method, size_t *method_n, const char **target,
                      size_t *target_n,
                      int *minor, phr_header *headers, size_t *count) noexcept nogil
cdef int pico_response(const char *buf, size_t n, int *minor, int *status, const char **reason, size_t *reason_n,
                       phr_header *headers, size_t *count) noexcept nogil
cdef int pico_headers(const char *buf, size_t n, phr_header *headers, size_t *count) noexcept nogil
# 1 when the SSE4.2 object was chosen.
cdef int pico_simd() noexcept nogil
