# Looking into a parsed head by name, for balancing keys and hooks; and numbers as text.
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp
from flyproxy._speedups.proto.fields cimport field_next
from flyproxy._speedups.proto.head cimport Header, RequestHead, Slice
from flyproxy._speedups.proto.names cimport H_COOKIE
from flyproxy._speedups.proto.text cimport put_hex_number, put_number, same


cdef Slice http1_header(const RequestHead *head, const char *name, uint32_t name_n) noexcept nogil:
    cdef uint32_t i
    cdef const Header *h
    cdef Slice found
    for i in range(head.nheaders):
        h = &head.headers[i]
        if h.name_n == name_n and same(h.name, name, name_n):
            found.p = h.value
            found.n = h.value_n
            return found
    found.p = NULL
    found.n = 0
    return found


# RFC 6265 4.2.1: pairs separated by "; ", names case-sensitive, the value up to the next ";".
cdef Slice http1_cookie(const RequestHead *head, const char *name, uint32_t name_n) noexcept nogil:
    cdef uint32_t i
    cdef const char *at
    cdef const char *end
    cdef Slice pair
    if (head.seen >> H_COOKIE) & 1:
        for i in range(head.nheaders):
            if head.headers[i].kind != H_COOKIE:
                continue
            at = head.headers[i].value
            end = at + head.headers[i].value_n
            while True:
                pair = field_next(&at, end, c';')
                if pair.p == NULL:
                    break
                if pair.n > name_n and pair.p[name_n] == c'=' and memcmp(pair.p, name, name_n) == 0:
                    pair.p += name_n + 1
                    pair.n -= name_n + 1
                    return pair
    pair.p = NULL
    pair.n = 0
    return pair


cdef uint32_t put_decimal(char *out, uint64_t value) noexcept nogil:
    return <uint32_t>(put_number(out, value) - out)


cdef uint32_t put_hex(char *out, uint64_t value) noexcept nogil:
    return <uint32_t>(put_hex_number(out, value) - out)
