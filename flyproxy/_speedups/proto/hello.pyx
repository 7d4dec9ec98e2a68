# The hello of a backhaul connection, written and read. Knows its bytes and its signature; does not know hosts, epochs
# or what was seen before. Strict: every field has one place and one spelling, so that nothing can be signed twice and
# nothing rides along that was not looked at.
#
#   PROXY v2 head, addresses of a tcp relay -> TLVs 0xE0, 0xE1 ... each once, in order -> 0xEF: HMAC of all before it
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from flyproxy._speedups.proto.proxy_protocol cimport ProxyHeader, is_v4, proxy_parse, proxy_write

cdef extern from "<openssl/hmac.h>" nogil:
    ctypedef struct EVP_MD:
        pass
    const EVP_MD *EVP_sha256() noexcept
    unsigned char *HMAC(const EVP_MD *md, const void *key, int key_n, const unsigned char *data, size_t n,
                        unsigned char *out, unsigned int *out_n) noexcept

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_memcmp(const void *a, const void *b, size_t n) noexcept

cdef enum:
    VERSION = 1
    HEAD = 16                   # of PROXY v2, before addresses and TLVs
    COMMAND = 12                # offsets in it
    FAMILY = 13
    LENGTH = 14
    LOCAL = 0x20
    UNSPEC = 0x00
    TCP6 = 0x21
    TLV_HEAD = 3
    MAC = 32                    # bytes

cdef enum Tlv:                  # the order on the wire
    T_VERSION = 0xE0
    T_KIND
    T_HOPS
    T_SOURCE
    T_SOURCE_EPOCH
    T_DEST
    T_DEST_EPOCH
    T_DEST_PORT
    T_TIME
    T_NONCE
    T_APP
    T_MACHINE
    T_SERVICE_PORT
    T_EDGE_PORT
    T_REQUEST_ID
    T_MAC

cdef struct Cursor:             # over the TLVs; once bad, nothing more is taken or put
    uint8_t *at
    uint8_t *end
    bint bad


# Names come from the table and request ids from us: no other byte can be in them.
cdef bint name_valid(const char *p, uint32_t n, bint upper) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if not (c'a' <= p[i] <= c'z' or c'0' <= p[i] <= c'9' or p[i] == c'-' or (upper and c'A' <= p[i] <= c'Z')):
            return False
    return n > 0


# What no hello may say, whoever writes or reads it.
cdef bint values_valid(const Hello *h) noexcept nogil:
    if h.hops > 1 or h.dest_port == 0:
        return False
    return h.kind == HELLO_TRANSPORT or (h.kind == HELLO_TCP and h.service_port != 0 and h.edge_port != 0)


# RFC 2104 with SHA-256. False: no memory.
cdef bint put_mac(const uint8_t *p, uint32_t n, const uint8_t *key, uint8_t *out) noexcept nogil:
    cdef unsigned int out_n = 0
    return HMAC(EVP_sha256(), key, HELLO_KEY, p, n, out, &out_n) != NULL


# -- writing

cdef void put_head(Cursor *c, uint8_t type, uint32_t n) noexcept nogil:
    c.at[0] = type
    c.at[1] = 0
    c.at[2] = <uint8_t>n
    c.at += TLV_HEAD


cdef void put_number(Cursor *c, uint8_t type, uint32_t size, uint64_t value) noexcept nogil:
    cdef uint32_t i
    put_head(c, type, size)
    for i in range(size):
        c.at[i] = <uint8_t>(value >> 8 * (size - 1 - i))
    c.at += size


cdef void put_name(Cursor *c, uint8_t type, uint32_t most, bint upper, const char *p, uint32_t n) noexcept nogil:
    if c.bad or n > most or not name_valid(p, n, upper):
        c.bad = True
        return
    put_head(c, type, n)
    memcpy(c.at, p, n)
    c.at += n


cdef void put_fields(Cursor *c, const Hello *h) noexcept nogil:
    put_number(c, T_VERSION, 1, VERSION)
    put_number(c, T_KIND, 1, h.kind)
    put_number(c, T_HOPS, 1, h.hops)
    put_name(c, T_SOURCE, sizeof(h.source), False, h.source, h.source_n)
    put_number(c, T_SOURCE_EPOCH, 4, h.source_epoch)
    put_name(c, T_DEST, sizeof(h.dest), False, h.dest, h.dest_n)
    put_number(c, T_DEST_EPOCH, 4, h.dest_epoch)
    put_number(c, T_DEST_PORT, 2, h.dest_port)
    put_number(c, T_TIME, 8, h.time_ms)
    put_number(c, T_NONCE, 8, h.nonce)
    if h.kind == HELLO_TCP:
        put_name(c, T_APP, sizeof(h.app), False, h.app, h.app_n)
        put_name(c, T_MACHINE, sizeof(h.machine), False, h.machine, h.machine_n)
        put_number(c, T_SERVICE_PORT, 2, h.service_port)
        put_number(c, T_EDGE_PORT, 2, h.edge_port)
        put_name(c, T_REQUEST_ID, sizeof(h.request_id), True, h.request_id, h.request_id_n)
    put_head(c, T_MAC, MAC)


# The beginning as any PROXY header has it, of an unspecified connection when there is no client's.
cdef uint32_t put_addresses(const Hello *h, uint8_t *out) noexcept nogil:
    cdef uint32_t n = proxy_write(2, h.client, h.client_port, h.local, h.local_port, out)
    if h.kind == HELLO_TCP:
        return n
    out[COMMAND] = LOCAL
    out[FAMILY] = UNSPEC
    return HEAD


cdef uint32_t hello_write(const Hello *hello, const uint8_t *key, uint8_t *out) noexcept nogil:
    cdef Cursor c
    cdef uint32_t n
    if not values_valid(hello):
        return 0
    c.at = out + put_addresses(hello, out)
    c.bad = False
    put_fields(&c, hello)
    if c.bad:
        return 0
    n = <uint32_t>(c.at - out)
    out[LENGTH] = <uint8_t>((n + MAC - HEAD) >> 8)
    out[LENGTH + 1] = <uint8_t>(n + MAC - HEAD)
    return n + MAC if put_mac(out, n, key, c.at) else 0


# -- reading

# The value of the next TLV, which must be of this type and size; NULL otherwise.
cdef const uint8_t *take(Cursor *c, uint8_t type, uint32_t least, uint32_t most, uint32_t *n) noexcept nogil:
    cdef const uint8_t *value = c.at + TLV_HEAD
    if not c.bad and c.end - c.at >= TLV_HEAD and c.at[0] == type:
        n[0] = <uint32_t>c.at[1] << 8 | c.at[2]
        if least <= n[0] <= most and n[0] <= c.end - value:
            c.at += TLV_HEAD + n[0]
            return value
    c.bad = True
    return NULL


cdef uint64_t take_number(Cursor *c, uint8_t type, uint32_t size) noexcept nogil:
    cdef uint64_t number = 0
    cdef uint32_t n = 0, i
    cdef const uint8_t *value = take(c, type, size, size, &n)
    if value != NULL:
        for i in range(size):
            number = number << 8 | value[i]
    return number


cdef uint8_t take_name(Cursor *c, uint8_t type, uint32_t most, bint upper, char *out) noexcept nogil:
    cdef uint32_t n = 0
    cdef const uint8_t *value = take(c, type, 1, most, &n)
    if value == NULL:
        return 0
    if not name_valid(<const char *>value, n, upper):
        c.bad = True
    memcpy(out, value, n)
    return <uint8_t>n


cdef void take_fields(Cursor *c, Hello *h) noexcept nogil:
    cdef uint32_t n = 0
    if take_number(c, T_VERSION, 1) != VERSION:
        c.bad = True
    h.kind = <uint8_t>take_number(c, T_KIND, 1)
    h.hops = <uint8_t>take_number(c, T_HOPS, 1)
    h.source_n = take_name(c, T_SOURCE, sizeof(h.source), False, h.source)
    h.source_epoch = <uint32_t>take_number(c, T_SOURCE_EPOCH, 4)
    h.dest_n = take_name(c, T_DEST, sizeof(h.dest), False, h.dest)
    h.dest_epoch = <uint32_t>take_number(c, T_DEST_EPOCH, 4)
    h.dest_port = <uint16_t>take_number(c, T_DEST_PORT, 2)
    h.time_ms = take_number(c, T_TIME, 8)
    h.nonce = take_number(c, T_NONCE, 8)
    if h.kind == HELLO_TCP:
        h.app_n = take_name(c, T_APP, sizeof(h.app), False, h.app)
        h.machine_n = take_name(c, T_MACHINE, sizeof(h.machine), False, h.machine)
        h.service_port = <uint16_t>take_number(c, T_SERVICE_PORT, 2)
        h.edge_port = <uint16_t>take_number(c, T_EDGE_PORT, 2)
        h.request_id_n = take_name(c, T_REQUEST_ID, sizeof(h.request_id), True, h.request_id)
    take(c, T_MAC, MAC, MAC, &n)
    if c.at != c.end:
        c.bad = True


# The addresses of a tcp relay, in the shorter form when both are v4; of a transport there are none. Where the TLVs
# begin, or 0.
cdef uint32_t take_addresses(const uint8_t *p, const ProxyHeader *header, Hello *out) noexcept nogil:
    if p[COMMAND] == LOCAL:
        return HEAD if p[FAMILY] == UNSPEC else 0
    if not header.known or (p[FAMILY] == TCP6 and is_v4(header.source) and is_v4(header.dest)):
        return 0
    memcpy(out.client, header.source, 16)
    memcpy(out.local, header.dest, 16)
    out.client_port = header.source_port
    out.local_port = header.dest_port
    return HEAD + (36 if p[FAMILY] == TCP6 else 12)


cdef int64_t hello_parse(const uint8_t *p, uint32_t n, Hello *out) noexcept nogil:
    cdef ProxyHeader header
    cdef Cursor c
    cdef int64_t used
    cdef uint32_t tlvs
    if n == 0:
        return 0
    if p[0] != c'\r' or (n >= HEAD and HEAD + (<uint32_t>p[LENGTH] << 8 | p[LENGTH + 1]) > HELLO_MAX):
        return -HA_MALFORMED    # version 1 begins with another byte
    used = proxy_parse(p, n, &header)
    if used <= 0:
        return 0 if used == 0 else -HA_MALFORMED
    memset(out, 0, sizeof(Hello))
    tlvs = take_addresses(p, &header, out)
    if tlvs == 0:
        return -HA_MALFORMED
    c.at = <uint8_t *>p + tlvs
    c.end = <uint8_t *>p + used
    c.bad = False
    take_fields(&c, out)
    if c.bad or not values_valid(out) or (out.kind == HELLO_TCP) != (p[COMMAND] != LOCAL):
        return -HA_MALFORMED
    return used


cdef int hello_authentic(const uint8_t *p, uint32_t n, const uint8_t *key) noexcept nogil:
    cdef uint8_t mac[MAC]
    return n > MAC and put_mac(p, n - MAC, key, mac) and CRYPTO_memcmp(mac, p + n - MAC, MAC) == 0


# -- the answer

cdef void hello_answer_write(const HelloAnswer *a, uint8_t *out) noexcept nogil:
    cdef uint32_t i
    out[0] = VERSION
    out[1] = a.status
    for i in range(2):
        out[2 + i] = <uint8_t>(a.code >> 8 * (1 - i))
    for i in range(4):
        out[4 + i] = <uint8_t>(a.epoch >> 8 * (3 - i))


cdef int hello_answer_parse(const uint8_t *p, HelloAnswer *out) noexcept nogil:
    out.version = p[0]
    out.status = p[1]
    out.code = <uint16_t>(<uint32_t>p[2] << 8 | p[3])
    out.epoch = <uint32_t>p[4] << 24 | <uint32_t>p[5] << 16 | <uint32_t>p[6] << 8 | p[7]
    return out.version == VERSION and out.status <= HA_BUSY
