/* picohttpparser, compiled twice under two names: with SSE4.2 and plain. See pico.pyx for the choice. */
#ifndef FLYPROXY_PICO_H
#define FLYPROXY_PICO_H

#include <stddef.h>

struct phr_header;  /* the library's: name, name_len, value, value_len */

#define FP_PICO_DECLARE(suffix) \
    int fp_pico_request_##suffix(const char *buf, size_t n, const char **method, size_t *method_n, const char **target, \
                                 size_t *target_n, int *minor, struct phr_header *headers, size_t *count, size_t last); \
    int fp_pico_response_##suffix(const char *buf, size_t n, int *minor, int *status, const char **reason, \
                                  size_t *reason_n, struct phr_header *headers, size_t *count, size_t last); \
    int fp_pico_headers_##suffix(const char *buf, size_t n, struct phr_header *headers, size_t *count, size_t last);

FP_PICO_DECLARE(sse42)
FP_PICO_DECLARE(plain)

static inline int fp_cpu_has_sse42(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("sse4.2") != 0;
#else
    return 0;
#endif
}

#endif
