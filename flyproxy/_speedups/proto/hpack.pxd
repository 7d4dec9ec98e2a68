# HPACK (RFC 7541): field blocks in and out. The dynamic tables take memory from a pool at their first entry and only as
# much as their entries need; a table of size 0 never takes any.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from flyproxy._speedups.mem.buf cimport Buf, Pool
from flyproxy._speedups.proto.head cimport Header

cdef enum:
    HPACK_STATIC = 61           # entries of the static table
    HPACK_OVERHEAD = 32         # what an entry counts beside its bytes (4.1)
    HPACK_TABLE_MAX = 65535     # bytes that a dynamic table may be set to at most

cdef enum PseudoField:          # Header.kind of pseudo fields: above every kind of names.pxd
    H2_METHOD = 128
    H2_SCHEME
    H2_PATH
    H2_AUTHORITY
    H2_PROTOCOL
    H2_STATUS
    H2_UNKNOWN_PSEUDO

cdef enum FieldFlag:            # Header.pad of decoded fields; Field flags for the encoder
    FF_MALFORMED = 1            # a byte that RFC 9113 8.2.1 forbids, or an upper-case letter in the name
    FF_NEVER = 2                # decoded: came as never indexed (6.2.3); to encode: goes out as never indexed
    FF_INDEX = 4                # to encode: worth an entry in the dynamic table

cdef enum HpackError:
    HPACK_OK = 0
    HPACK_BROKEN = -1           # COMPRESSION_ERROR: the connection cannot go on
    HPACK_MEMORY = -2

cdef struct HpackEntry:
    uint32_t at                 # of the name, from the start of the data; the value follows it
    uint32_t hash               # of the name
    uint16_t name_n
    uint16_t value_n
    uint16_t kind               # as in Header: found once, when the entry was made
    uint16_t flags

cdef struct HpackTable:         # text from the front of the block, entries from its end, the oldest outermost
    Buf data                    # [start, end): text of the living entries
    uint32_t first              # number of the oldest living entry
    uint32_t next               # number that the next entry will have
    uint32_t base               # number of the entry that stands outermost in the block
    uint16_t size               # bytes by 4.1
    uint16_t size_max           # as the peer's encoder, or ours, has it now
    uint16_t limit              # decoder: what an update may set; encoder: the smallest size since the last block
    uint8_t update_owed         # encoder: a size update must come first; decoder: the peer must send one
    uint8_t huffman             # encoder: strings go out in whichever form is shorter

cdef struct HpackOut:           # where a decoded block goes
    Header *fields
    char *arena                 # names and values; at least 2 * block bytes + list_max
    uint32_t nfields
    uint32_t fields_max
    uint32_t arena_n
    uint32_t list_n             # size by RFC 9113 6.5.2, of all fields, kept or not
    uint32_t list_max
    uint8_t overflow            # too many fields or bytes: all were read, none kept

# -- tables. `size`: at most HPACK_TABLE_MAX.
cdef void hpack_init(HpackTable *t, uint32_t size) noexcept nogil
cdef void hpack_clear(HpackTable *t, Pool *pool) noexcept nogil
# Evicts what no longer fits.
cdef void hpack_resize(HpackTable *t, Pool *pool, uint32_t size_max) noexcept nogil
# 0 when memory is exhausted. An entry larger than the table empties it (4.4). name and value must not be in the table.
cdef int hpack_insert(HpackTable *t, Pool *pool, const Header *field, uint32_t hash) noexcept nogil
cdef inline uint32_t hpack_count(const HpackTable *t) noexcept nogil:
    return t.next - t.first

cdef inline HpackEntry *hpack_entry(const HpackTable *t, uint32_t number) noexcept nogil:
    return <HpackEntry *>(t.data.data + t.data.cap) - (number - t.base) - 1

# The limit that we announced, once it is acknowledged: the next block must begin with an update if it shrank (4.2).
cdef void hpack_decoder_limit(HpackTable *t, uint32_t limit) noexcept nogil

# -- decoding: one whole block; HpackError. Fields of the static table point into it, all others into the arena.
cdef int hpack_decode(HpackTable *t, Pool *pool, const uint8_t *p, uint32_t n, HpackOut *out) noexcept nogil
# kind of a valid name, pseudo names included
cdef uint16_t hpack_kind(const char *name, uint32_t n) noexcept nogil
