# HPACK decoding (RFC 7541 6) and the dynamic table (RFC 7541 4). Knows one block at a time; does not know frames.
# Each name and value is checked once, when it is decoded or enters the table: an indexed field costs one copy.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memmove
from flyproxy._speedups.mem.buf cimport Buf, Pool, buf_give, buf_take
from flyproxy._speedups.proto.head cimport Header
from flyproxy._speedups.proto.hpack_tables cimport (
    HPACK_BAD_INTEGER, field_name_valid, field_value_valid, hpack_static, huffman_decode, take_integer,
)
from flyproxy._speedups.proto.names cimport header_kind
from flyproxy._speedups.proto.text cimport put

cdef enum:
    SMALLEST = 2048             # bytes of a table's first block

cdef Header[HPACK_STATIC] static_fields     # filled once, at import


# -- the dynamic table

cdef void hpack_init(HpackTable *t, uint32_t size) noexcept nogil:
    t.data.data = NULL
    t.data.cap = t.data.start = t.data.end = 0
    t.first = t.next = t.base = 0
    t.size = 0
    t.size_max = t.limit = <uint16_t>size
    t.update_owed = t.huffman = 0


cdef void hpack_clear(HpackTable *t, Pool *pool) noexcept nogil:
    if t.data.data != NULL:
        buf_give(pool, &t.data)
    t.data.cap = t.data.start = t.data.end = 0
    t.first = t.base = t.next
    t.size = 0


cdef void evict_to(HpackTable *t, uint32_t size) noexcept nogil:
    cdef HpackEntry *oldest
    while t.size > size:
        oldest = hpack_entry(t, t.first)
        t.size -= oldest.name_n + oldest.value_n + HPACK_OVERHEAD
        t.first += 1
        t.data.start = oldest.at + oldest.name_n + oldest.value_n
    if t.first == t.next:
        t.data.start = t.data.end = 0
        t.base = t.next


cdef void hpack_resize(HpackTable *t, Pool *pool, uint32_t size_max) noexcept nogil:
    t.size_max = <uint16_t>size_max
    evict_to(t, size_max)
    if size_max == 0:
        hpack_clear(t, pool)


# Moves the living text to the front of `block` and the living entries to its end; it may be the block they are in.
cdef void move_into(HpackTable *t, Buf *block) noexcept nogil:
    cdef uint32_t count = hpack_count(t), number, text = t.data.end - t.data.start
    cdef HpackEntry *entries
    if count:
        entries = hpack_entry(t, t.next - 1)
        memmove(block.data, t.data.data + t.data.start, text)
        memmove(block.data + block.cap - count * sizeof(HpackEntry), entries, count * sizeof(HpackEntry))
    t.base = t.first
    block.start = 0
    block.end = text
    number = t.data.start
    t.data = block[0]
    for count in range(t.first, t.next):
        hpack_entry(t, count).at -= number


# Room for `text` bytes and one more entry.
cdef int make_room(HpackTable *t, Pool *pool, uint32_t text) noexcept nogil:
    cdef Buf old = t.data, larger
    cdef uint32_t living = t.data.end - t.data.start + hpack_count(t) * <uint32_t>sizeof(HpackEntry)
    cdef uint32_t need = text + <uint32_t>sizeof(HpackEntry)
    if t.data.data != NULL and t.data.end + (t.next - t.base) * sizeof(HpackEntry) + need <= t.data.cap:
        return 1
    if t.data.data != NULL and living + need <= t.data.cap:
        larger = t.data
        move_into(t, &larger)
        return 1
    larger.data = NULL
    larger.cap = larger.start = larger.end = 0
    if not buf_take(pool, &larger, living + need if living + need > SMALLEST else SMALLEST):
        return 0
    move_into(t, &larger)
    if old.data != NULL:
        buf_give(pool, &old)
    return 1


cdef int hpack_insert(HpackTable *t, Pool *pool, const Header *field, uint32_t hash) noexcept nogil:
    cdef uint32_t text = field.name_n + field.value_n
    cdef HpackEntry *entry
    if text + HPACK_OVERHEAD > t.size_max:
        evict_to(t, 0)
        return 1
    evict_to(t, t.size_max - text - HPACK_OVERHEAD)
    if not make_room(t, pool, text):
        return 0
    entry = hpack_entry(t, t.next)
    entry.at = t.data.end
    entry.hash = hash
    entry.name_n = <uint16_t>field.name_n
    entry.value_n = <uint16_t>field.value_n
    entry.kind = field.kind
    entry.flags = field.pad & FF_MALFORMED
    put(put(t.data.data + t.data.end, field.name, field.name_n), field.value, field.value_n)
    t.data.end += text
    t.size += <uint16_t>(text + HPACK_OVERHEAD)
    t.next += 1
    return 1


cdef void hpack_decoder_limit(HpackTable *t, uint32_t limit) noexcept nogil:
    t.limit = <uint16_t>limit
    t.update_owed = t.size_max > limit


# -- decoding

cdef uint16_t hpack_kind(const char *name, uint32_t n) noexcept nogil:
    if n == 0 or name[0] != c':':
        return <uint16_t>header_kind(name, n)
    if n == 5 and memcmp(name, b":path", 5) == 0:
        return H2_PATH
    if n == 7:
        if memcmp(name, b":method", 7) == 0:
            return H2_METHOD
        if memcmp(name, b":scheme", 7) == 0:
            return H2_SCHEME
        if memcmp(name, b":status", 7) == 0:
            return H2_STATUS
    if n == 9 and memcmp(name, b":protocol", 9) == 0:
        return H2_PROTOCOL
    if n == 10 and memcmp(name, b":authority", 10) == 0:
        return H2_AUTHORITY
    return H2_UNKNOWN_PSEUDO


# Drops what was kept: the block must be read to its end for the table's sake, but nobody will see its fields.
cdef void overflow(HpackOut *out) noexcept nogil:
    out.overflow = 1
    out.nfields = out.arena_n = 0


# One string literal (5.2) into the arena. A block of n bytes cannot make more than 8 * n / 5 bytes of text, and the
# arena has that room behind list_max.
cdef int take_string(const uint8_t **at, const uint8_t *end, HpackOut *out, const char **p, uint32_t *n) noexcept nogil:
    cdef bint huffman
    cdef uint32_t length
    cdef int64_t written
    if at[0] == end:
        return HPACK_BROKEN
    huffman = at[0][0] >> 7
    length = take_integer(at, end, 7)
    if length == <uint32_t>HPACK_BAD_INTEGER or length > end - at[0]:
        return HPACK_BROKEN
    p[0] = out.arena + out.arena_n
    if huffman:
        written = huffman_decode(at[0], length, out.arena + out.arena_n)
        if written < 0:
            return HPACK_BROKEN
    else:
        put(out.arena + out.arena_n, <const char *>at[0], length)
        written = length
    at[0] += length
    n[0] = <uint32_t>written
    out.arena_n += n[0]
    return HPACK_OK


# A field of either table. Text of the dynamic table is copied to the arena when there is room: the table may change
# before the block ends.
cdef int take_indexed(HpackTable *t, uint32_t index, bint value_too, HpackOut *out, Header *field) noexcept nogil:
    cdef HpackEntry *entry
    cdef uint32_t n
    if index == 0 or index > HPACK_STATIC + hpack_count(t):
        return HPACK_BROKEN
    if index <= HPACK_STATIC:
        field[0] = static_fields[index - 1]
        return HPACK_OK
    entry = hpack_entry(t, t.next - (index - HPACK_STATIC))
    n = entry.name_n + entry.value_n if value_too else entry.name_n
    field.name = out.arena + out.arena_n
    field.name_n = entry.name_n
    field.value = field.name + entry.name_n
    field.value_n = entry.value_n
    field.kind = entry.kind
    field.drop = 0
    field.pad = <uint8_t>entry.flags
    if out.list_n + n + HPACK_OVERHEAD > out.list_max:
        overflow(out)           # nothing may be copied any more: the arena's rest is for literals
        if value_too:
            return HPACK_OK
        field.name = out.arena
    put(out.arena + out.arena_n, t.data.data + entry.at, n)
    out.arena_n += n
    return HPACK_OK


cdef int take_literal(HpackTable *t, const uint8_t **at, const uint8_t *end, uint32_t prefix, HpackOut *out,
                      Header *field) noexcept nogil:
    cdef uint32_t index = take_integer(at, end, prefix)
    cdef int error
    if index == 0:
        error = take_string(at, end, out, &field.name, &field.name_n)
        if error < 0:
            return error
        field.drop = field.pad = 0
        if not field_name_valid(field.name + 1 if field.name_n and field.name[0] == c':' else field.name,
                                field.name_n - 1 if field.name_n and field.name[0] == c':' else field.name_n):
            field.pad = FF_MALFORMED
        field.kind = hpack_kind(field.name, field.name_n) if field.pad == 0 else 0
    else:
        error = take_indexed(t, index, False, out, field)
        if error < 0:
            return error
    error = take_string(at, end, out, &field.value, &field.value_n)
    if error == HPACK_OK and not field_value_valid(field.value, field.value_n):
        field.pad |= FF_MALFORMED
    return error


cdef void keep(HpackOut *out, const Header *field) noexcept nogil:
    out.list_n += field.name_n + field.value_n + HPACK_OVERHEAD
    if out.list_n > out.list_max or out.nfields == out.fields_max:
        overflow(out)
        out.list_n = out.list_max   # stays over, and cannot wrap
    if out.overflow:
        out.arena_n = 0
        return
    out.fields[out.nfields] = field[0]
    out.nfields += 1


# 4.2: updates stand only at the beginning of a block.
cdef int take_updates(HpackTable *t, Pool *pool, const uint8_t **at, const uint8_t *end) noexcept nogil:
    cdef uint32_t size
    while at[0] < end and at[0][0] >> 5 == 1:
        size = take_integer(at, end, 5)
        if size > t.limit:
            return HPACK_BROKEN
        hpack_resize(t, pool, size)
        t.update_owed = 0
    return HPACK_BROKEN if t.update_owed else HPACK_OK


cdef int hpack_decode(HpackTable *t, Pool *pool, const uint8_t *p, uint32_t n, HpackOut *out) noexcept nogil:
    cdef const uint8_t *end = p + n
    cdef Header field
    cdef uint8_t first
    cdef int error = take_updates(t, pool, &p, end)
    out.nfields = out.arena_n = out.list_n = 0
    out.overflow = 0
    while error == HPACK_OK and p < end:
        first = p[0]
        if first & 0x80:
            error = take_indexed(t, take_integer(&p, end, 7), True, out, &field)
        elif first & 0x40:
            error = take_literal(t, &p, end, 6, out, &field)
            if error == HPACK_OK and not hpack_insert(t, pool, &field, 0):
                error = HPACK_MEMORY
        elif first & 0x20:
            error = HPACK_BROKEN
        else:
            error = take_literal(t, &p, end, 4, out, &field)
            field.pad |= FF_NEVER if first & 0x10 else 0
        if error == HPACK_OK:
            keep(out, &field)
    return error


cdef void fill_static() noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>HPACK_STATIC):
        static_fields[i].name = hpack_static[i].name
        static_fields[i].value = hpack_static[i].value
        static_fields[i].name_n = hpack_static[i].name_n
        static_fields[i].value_n = hpack_static[i].value_n
        static_fields[i].kind = hpack_kind(hpack_static[i].name, hpack_static[i].name_n)
        static_fields[i].drop = static_fields[i].pad = 0


fill_static()
