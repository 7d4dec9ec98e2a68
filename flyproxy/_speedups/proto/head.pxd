# The neutral head of a request and of a response: what every HTTP version is parsed into and written from. Types only.
# Slices point into the caller's buffer: a head is good for the turn in which it was parsed.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HEADERS_CAP = 256           # array capacity; the limit `headers` is clamped to it
    HOST_CAP = 256              # bytes of a normalised host name with its final NUL
    METHOD_MAX = 32             # bytes of a method; longer ones are malformed

cdef enum Method:
    M_OTHER = 0
    M_GET
    M_HEAD
    M_POST
    M_PUT
    M_DELETE
    M_OPTIONS
    M_TRACE
    M_PATCH
    M_CONNECT

cdef enum RequestFlag:
    RQ_KEEP_ALIVE = 1           # the client wants the connection kept (RFC 9112 9.3)
    RQ_CHUNKED = 2              # body is chunked
    RQ_EXPECT = 4               # Expect: 100-continue from an HTTP/1.1 client
    RQ_UPGRADE = 8              # a protocol other than h2c is asked for and may be passed on
    RQ_TE_TRAILERS = 16         # TE: trailers
    RQ_WEBSOCKET = 32           # Upgrade: websocket with a valid key and version 13
    RQ_IDEMPOTENT = 64          # RFC 9110 9.2.2: may be repeated

cdef enum AnswerKind:           # what the client's Accept prefers for a proxy-made answer
    AK_TEXT = 0
    AK_JSON
    AK_HTML

cdef struct Slice:
    const char *p
    uint32_t n

cdef struct Header:
    const char *name            # as received; points into the caller's buffer
    const char *value           # optional white space trimmed
    uint32_t name_n
    uint32_t value_n
    uint16_t kind               # which known header (names.pxd); 0 unknown
    uint8_t drop                # not passed on
    uint8_t pad

cdef struct HeadLimits:
    uint32_t head               # bytes, request line and final empty line included
    uint32_t headers            # lines
    uint32_t target             # bytes
    uint32_t trailers           # bytes
    uint32_t chunk_extension    # bytes per chunk

cdef struct RequestHead:        # about 9 KB: one per worker, filled by the parse and used in the same turn
    Slice method_text
    Slice target                # path and query, "*" for OPTIONS; begins with "?" after an absolute form without path
    Slice upgrade               # value of Upgrade when RQ_UPGRADE
    int64_t content_length      # bytes, -1: none declared
    uint64_t seen               # bit per header kind
    uint32_t nheaders
    uint32_t flags              # RequestFlag
    uint32_t own_via            # Via elements that carry our own pseudonym
    uint16_t host_port          # 0: none given
    uint8_t method              # Method
    uint8_t minor               # HTTP/1.minor
    uint8_t accept              # AnswerKind
    uint8_t host_n              # 0: an HTTP/1.0 request without Host
    char host[HOST_CAP]         # lower case, no port, no trailing dot; IPv6 literals in brackets
    Header headers[HEADERS_CAP]

cdef struct RequestEmit:        # what the proxy adds on the way to the VM
    Slice client_ip             # text
    Slice local_ip              # text of the address that the client spoke to
    Slice region
    Slice request_id            # ULID-region
    Slice via                   # our pseudonym
    const uint8_t *random       # 24 bytes: trace id (16) and span id (8)
    uint64_t start_us           # since the epoch
    uint16_t port               # the service port that the client spoke to
    uint8_t https

cdef enum ResponseFlag:
    RS_KEEP_ALIVE = 1           # the VM keeps the connection (never for HTTP/1.0 VMs)
    RS_CHUNKED = 2
    RS_UNTIL_CLOSE = 4          # body ends with the connection
    RS_NO_BODY = 8              # HEAD, 1xx, 204, 304
    RS_SWITCHED = 16            # 101 to a request that asked for it

cdef struct ResponseHead:
    Slice reason
    int64_t content_length      # bytes, -1: none declared; with RS_NO_BODY only a number to pass on
    uint64_t seen               # bit per header kind
    uint32_t nheaders
    uint32_t flags              # ResponseFlag
    uint16_t status
    uint8_t minor
    uint8_t proxy_error         # the answer carries flyproxy-error (dropped from what VMs send)
    Header headers[HEADERS_CAP]

cdef struct ResponseEmit:
    Slice request_id
    Slice server
    Slice via
    uint8_t pristine            # Server, Via and Fly-Request-Id are not added
    uint8_t client_minor        # HTTP/1.minor of the client
    uint8_t close               # Connection: close to the client
    uint8_t chunked             # body goes out chunked (VM sent chunked or until-close, client is 1.1)
