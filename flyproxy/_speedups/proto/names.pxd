# csrc/fp_headers.h: the headers that the proxy knows by name. Extern only.
from libc.stdint cimport uint8_t, uint32_t

cdef extern from "fp_headers.h" nogil:
    enum:
        H_UNKNOWN
        H_TE
        H_VIA
        H_HOST
        H_ACCEPT
        H_COOKIE
        H_EXPECT
        H_SERVER
        H_UPGRADE
        H_CONNECTION
        H_KEEP_ALIVE
        H_PROXY_CONNECTION
        H_TRACESTATE
        H_TRACEPARENT
        H_CONTENT_LENGTH
        H_X_FORWARDED_FOR
        H_X_FORWARDED_PORT
        H_SEC_WEBSOCKET_KEY
        H_SEC_WEBSOCKET_VERSION
        H_TRANSFER_ENCODING
        H_SET_COOKIE
        H_DATE
        H_RANGE
        H_AUTHORIZATION
        H_PROXY_AUTHORIZATION
        H_X_REQUEST_START
        H_COUNT
    enum:
        HF_RQ_DROP
        HF_RS_DROP
        HF_ONCE
        HF_TWIN
        HF_KEEP
        HF_NO_TRAILER
        HF_RQ_READ
        HF_RS_READ
    const uint8_t *fp_header_rules
    int header_kind "fp_header_kind"(const char *name, uint32_t n) noexcept
    bint reserved_name "fp_reserved_name"(const char *name, uint32_t n) noexcept
    bint is_twin "fp_is_twin"(const char *name, uint32_t n) noexcept
