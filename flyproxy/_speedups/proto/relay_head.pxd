# Heads between our own proxies: the text that http1_emit_request wrote, as fields for a transport, and back. Both sides
# are ours, so nothing is decided here; what a client or a machine may not say was dropped where it came in, and
# flyproxy-* is for the other proxy alone.
from libc.stdint cimport uint32_t
from flyproxy._speedups.proto.head cimport Header, RequestHead, Slice

cdef enum:
    RELAY_CLIENT = 36           # bytes in flyproxy-client: address and port of the client, and of where it spoke

# The head at p as http2_request takes it: host, content_length, flags, upgrade; headers without what framing and
# connection are made of, `pad` FF_NEVER where the value is new with each request. Bytes of its text, 0: no such head.
cdef uint32_t relay_parse(const char *p, uint32_t n, RequestHead *out) noexcept nogil
# A request that a trusted peer's transport brought as HTTP/1.1 text, for a machine or for relay_parse: fields that no
# client may send (`drop`) included, flyproxy-* never. Bytes, or 0 when cap is too small.
cdef uint32_t relay_request_text(const RequestHead *head, char *out, uint32_t cap) noexcept nogil
# A field that one proxy says to another. `name` in lower case, flyproxy- included.
cdef inline Header relay_control(const char *name, uint32_t name_n, const char *value, uint32_t value_n) noexcept nogil:
    cdef Header h
    h.name = name
    h.name_n = name_n
    h.value = value
    h.value_n = value_n
    h.kind = 0
    h.drop = 0
    h.pad = 0
    return h

# Value of flyproxy-NAME, whether dropped or not; `name`: what follows "flyproxy-", lower case. {NULL, 0} when it is
# absent or there twice.
cdef Slice relay_field(const Header *headers, uint32_t n, const char *name, uint32_t name_n) noexcept nogil

# Trailers as chunked_emit_trailers wrote them, with or without the final empty line, as fields; their number, at most
# cap, and HEADERS_CAP always suffices.
cdef uint32_t relay_trailer_fields(const char *p, uint32_t n, Header *out, uint32_t cap) noexcept nogil
# Fields as lines, without the empty line, those with `drop` left out. Bytes; 0 also when cap is less than their names
# and values and 4 for each.
cdef uint32_t relay_trailer_text(const Header *fields, uint32_t n, char *out, uint32_t cap) noexcept nogil
