# How a connection between two of our hosts begins: a PROXY protocol v2 header whose TLVs say who speaks to whom, signed
# with the cluster's key; and the 8 bytes that answer it. The bytes: docs/backhaul.md.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HELLO_MAX = 1024            # bytes; a header that says it is longer is refused
    HELLO_ANSWER = 8            # bytes
    HELLO_KEY = 32              # bytes

cdef enum HelloKind:
    HELLO_TRANSPORT = 1         # HTTP/2 follows the answer
    HELLO_TCP = 2               # the bytes of one connection to a machine follow it

cdef enum HelloStatus:          # as sent
    HA_OK = 0
    HA_MALFORMED
    HA_NOT_AUTHENTIC
    HA_WRONG_HOST
    HA_OLD_DESTINATION          # epoch of the answer: the one that holds
    HA_OLD_SOURCE
    HA_STALE                    # too old, too new, or seen before
    HA_REFUSED                  # code says why
    HA_BUSY

cdef struct Hello:
    uint8_t kind                # HelloKind
    uint8_t hops                # relays that may still follow: 0 or 1
    uint16_t dest_port          # of the backhaul, 1 to 65535
    uint16_t service_port       # tcp: internal port, 1 to 65535
    uint16_t edge_port          # tcp: the port that the client spoke to, 1 to 65535
    uint32_t source_epoch       # seconds since 1970 at the host's start, growing
    uint32_t dest_epoch
    uint64_t time_ms            # since 1970
    uint64_t nonce
    uint8_t client[16]          # tcp only, v4 as v4-mapped
    uint16_t client_port
    uint8_t local[16]
    uint16_t local_port
    uint8_t source_n            # bytes of each name, at least 1
    uint8_t dest_n
    uint8_t app_n               # tcp only, from here on
    uint8_t machine_n
    uint8_t request_id_n
    char source[32]             # lower-case letters, digits, "-"; no final NUL
    char dest[32]
    char app[64]
    char machine[40]
    char request_id[48]         # upper-case letters, too

cdef struct HelloAnswer:
    uint8_t version             # 1
    uint8_t status              # HelloStatus
    uint16_t code               # ErrorCode of HA_REFUSED, else 0
    uint32_t epoch              # of the host that answers

# Bytes written, at most HELLO_MAX; 0 when a field is not one that hello_parse would take.
cdef uint32_t hello_write(const Hello *hello, const uint8_t *key, uint8_t *out) noexcept nogil
# > 0 bytes used; 0 more needed; < 0 the negated HelloStatus. One spelling only: no TLV may be missing, twice, unknown
# or out of order, and writing what was read gives the same bytes. Fields of tcp are zero in a transport's. Believe
# nothing of it before hello_authentic says 1.
cdef int64_t hello_parse(const uint8_t *p, uint32_t n, Hello *out) noexcept nogil
# 1 when the n bytes that hello_parse used were signed with this key; in constant time.
cdef int hello_authentic(const uint8_t *p, uint32_t n, const uint8_t *key) noexcept nogil

# out, p: HELLO_ANSWER bytes
cdef void hello_answer_write(const HelloAnswer *a, uint8_t *out) noexcept nogil
# 0: no answer of ours
cdef int hello_answer_parse(const uint8_t *p, HelloAnswer *out) noexcept nogil
