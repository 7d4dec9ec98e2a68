# HPACK, writing. Fields go out by the static table and, when it has a size, a dynamic one. Tables: hpack.pxd.
from libc.stdint cimport uint32_t
from flyproxy._speedups.mem.buf cimport Pool
from flyproxy._speedups.proto.head cimport Header
from flyproxy._speedups.proto.hpack cimport HpackTable

cdef enum:
    HPACK_BEGIN_ROOM = 8

# Bytes that always suffice for a field.
cdef inline uint32_t hpack_room(const Header *field) noexcept nogil:
    return field.name_n + field.value_n + 16

# The size that the peer allows our table (its SETTINGS_HEADER_TABLE_SIZE); `wanted` is ours.
cdef void hpack_encoder_limit(HpackTable *t, Pool *pool, uint32_t allowed, uint32_t wanted) noexcept nogil
# A block begins with this: the size update that is owed, if any (4.2). At most HPACK_BEGIN_ROOM bytes.
cdef char *hpack_begin(HpackTable *t, char *out) noexcept nogil
# One field; its name goes out in lower case, field.pad are FieldFlag. The byte after what was written.
cdef char *hpack_put(HpackTable *t, Pool *pool, const Header *field, char *out) noexcept nogil
