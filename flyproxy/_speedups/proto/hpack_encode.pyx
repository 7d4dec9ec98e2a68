# HPACK encoding (RFC 7541 6). Whatever repeats goes out as an index; what is secret is never indexed (7.1.3), so that
# no table, here or at a proxy behind the peer, can be asked about it.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp
from flyproxy._speedups.mem.buf cimport Pool
from flyproxy._speedups.proto.head cimport Header
from flyproxy._speedups.proto.hpack cimport (
    FF_INDEX, FF_NEVER, HPACK_OVERHEAD, HPACK_STATIC, HpackEntry, HpackTable, hpack_entry, hpack_insert, hpack_resize,
)
from flyproxy._speedups.proto.hpack_tables cimport (
    field_hash, hpack_static, huffman_bytes, huffman_encode, put_integer,
)
from flyproxy._speedups.proto.text cimport put

cdef enum:
    NAME_MAX = 64               # a longer name is in no table
    BUCKETS = 256

cdef struct Found:
    uint32_t index              # of the whole field, 0: none
    uint32_t name               # of a field of this name, 0: none

cdef uint8_t[BUCKETS] buckets   # by hash: the first static entry of a name; filled once, at import
cdef uint8_t[HPACK_STATIC + 1] chain        # the first entry of the next name in the bucket


cdef void hpack_encoder_limit(HpackTable *t, Pool *pool, uint32_t allowed, uint32_t wanted) noexcept nogil:
    cdef uint32_t size = allowed if allowed < wanted else wanted
    if size != t.size_max:
        t.limit = <uint16_t>(size if not t.update_owed or size < t.limit else t.limit)
        t.update_owed = 1
        hpack_resize(t, pool, size)


cdef char *hpack_begin(HpackTable *t, char *out) noexcept nogil:
    if not t.update_owed:
        return out
    t.update_owed = 0
    if t.limit < t.size_max:
        out = put_integer(out, 0x20, 5, t.limit)
    return put_integer(out, 0x20, 5, t.size_max)


cdef bint same_static(uint32_t index, const char *name, uint32_t n) noexcept nogil:
    return hpack_static[index - 1].name_n == n and memcmp(hpack_static[index - 1].name, name, n) == 0


# Entries of one name stand together in the static table.
cdef void find_static(const Header *field, uint32_t hash, Found *found) noexcept nogil:
    cdef uint32_t index = buckets[hash % BUCKETS]
    while index and not same_static(index, field.name, field.name_n):
        index = chain[index]
    found.name = index
    while index and index <= HPACK_STATIC and same_static(index, field.name, field.name_n):
        if (hpack_static[index - 1].value_n == field.value_n
                and memcmp(hpack_static[index - 1].value, field.value, field.value_n) == 0):
            found.index = index
            return
        index += 1


cdef void find_dynamic(const HpackTable *t, const Header *field, uint32_t hash, Found *found) noexcept nogil:
    cdef HpackEntry *entry
    cdef const char *text
    cdef uint32_t number = t.next
    while number != t.first:
        number -= 1
        entry = hpack_entry(t, number)
        text = t.data.data + entry.at
        if entry.hash != hash or entry.name_n != field.name_n or memcmp(text, field.name, field.name_n) != 0:
            continue
        if found.name == 0:
            found.name = HPACK_STATIC + t.next - number
        if entry.value_n == field.value_n and memcmp(text + entry.name_n, field.value, field.value_n) == 0:
            found.index = HPACK_STATIC + t.next - number
            return


cdef char *put_string(const HpackTable *t, const char *p, uint32_t n, char *out) noexcept nogil:
    cdef uint32_t shorter = huffman_bytes(p, n) if t.huffman else n
    if shorter < n:
        return huffman_encode(p, n, put_integer(out, 0x80, 7, shorter))
    return put(put_integer(out, 0, 7, n), p, n)


cdef char *put_lower(const char *p, uint32_t n, char *out) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        out[i] = p[i] | 0x20 if c'A' <= p[i] <= c'Z' else p[i]
    return out + n


# A name too long for any table: literal, new name, without Huffman.
cdef char *put_long_name(const HpackTable *t, const Header *field, char *out) noexcept nogil:
    out[0] = 0x10 if field.pad & FF_NEVER else 0
    out = put_lower(field.name, field.name_n, put_integer(out + 1, 0, 7, field.name_n))
    return put_string(t, field.value, field.value_n, out)


cdef char *hpack_put(HpackTable *t, Pool *pool, const Header *field, char *out) noexcept nogil:
    cdef char name[NAME_MAX]
    cdef Header plain = field[0]
    cdef Found found
    cdef uint32_t hash
    cdef bint index = (field.pad & FF_INDEX and not field.pad & FF_NEVER
                       and field.name_n + field.value_n + HPACK_OVERHEAD <= t.size_max)
    if field.name_n > NAME_MAX:
        return put_long_name(t, field, out)
    put_lower(field.name, field.name_n, name)
    plain.name = name
    plain.pad = 0
    hash = field_hash(name, field.name_n)
    found.index = found.name = 0
    find_static(&plain, hash, &found)
    if found.index == 0 and not field.pad & FF_NEVER:
        find_dynamic(t, &plain, hash, &found)
    if found.index and not field.pad & FF_NEVER:
        return put_integer(out, 0x80, 7, found.index)
    if index and hpack_insert(t, pool, &plain, hash):
        out = put_integer(out, 0x40, 6, found.name)
    else:
        out = put_integer(out, 0x10 if field.pad & FF_NEVER else 0, 4, found.name)
    if found.name == 0:
        out = put_string(t, name, field.name_n, out)
    return put_string(t, field.value, field.value_n, out)


cdef void fill_buckets() noexcept nogil:
    cdef uint32_t index, bucket
    for index in range(HPACK_STATIC, 0, -1):
        if index > 1 and same_static(index - 1, hpack_static[index - 1].name, hpack_static[index - 1].name_n):
            continue
        bucket = field_hash(hpack_static[index - 1].name, hpack_static[index - 1].name_n) % BUCKETS
        chain[index] = buckets[bucket]
        buckets[bucket] = <uint8_t>index


fill_buckets()
