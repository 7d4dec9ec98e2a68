"""The test door of HPACK: decoders, encoders and the Huffman code on bytes. For tests only."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from flyproxy._speedups.mem.buf cimport Pool, pool_clear, pool_init
from flyproxy._speedups.proto.head cimport HEADERS_CAP, Header
from flyproxy._speedups.proto.hpack cimport (
    FF_INDEX, FF_MALFORMED, FF_NEVER, HpackOut, HpackTable, hpack_clear, hpack_count, hpack_decode,
    hpack_decoder_limit, hpack_init,
)
from flyproxy._speedups.proto.hpack_encode cimport hpack_begin, hpack_encoder_limit, hpack_put
from flyproxy._speedups.proto.hpack_tables cimport huffman_bytes, huffman_decode, huffman_encode

cdef enum:
    OUT = 1 << 20
    ARENA = 1 << 21

cdef Header[HEADERS_CAP] decoded    # one at a time: these functions hold the GIL
cdef char *arena = <char *>malloc(ARENA)
cdef char *output = <char *>malloc(OUT)


cdef list fields_of(const Header *fields, uint32_t n):
    return [(fields[i].name[:fields[i].name_n], fields[i].value[:fields[i].value_n]) for i in range(n)]


cdef uint32_t place_fields(list fields, Header *out) except 0xFFFFFFFF:
    cdef uint32_t n = 0
    for name, value, flags in fields:
        if n == HEADERS_CAP:
            raise ValueError(f"at most {HEADERS_CAP} fields")
        out[n].name = name
        out[n].name_n = <uint32_t>len(name)
        out[n].value = value
        out[n].value_n = <uint32_t>len(value)
        out[n].kind = 0
        out[n].drop = 0
        out[n].pad = flags
        n += 1
    return n


def huffman(bytes text):
    cdef uint32_t n = huffman_bytes(text, <uint32_t>len(text))
    cdef bytes out = bytes(n)
    huffman_encode(text, <uint32_t>len(text), <char *>out)
    return out


def unhuffman(bytes code):
    """The text; None for a broken code. Code and text stand in heap blocks of their exact sizes."""
    cdef uint32_t n = <uint32_t>len(code)
    cdef uint8_t *p = <uint8_t *>malloc(n or 1)
    cdef char *out = <char *>malloc(8 * n / 5 + 2)
    memcpy(p, <const char *>code, n)
    cdef int64_t written = huffman_decode(p, n, out)
    text = out[:written] if written >= 0 else None
    free(p)
    free(out)
    return text


cdef class Decoder:
    """One side's HPACK decoder. `pool_used`: bytes of its table."""
    cdef HpackTable table
    cdef Pool pool
    cdef uint32_t list_max

    def __cinit__(self, uint32_t size=4096, uint32_t list_max=1 << 20):
        pool_init(&self.pool, 1 << 20)
        hpack_init(&self.table, size)
        self.list_max = list_max

    def __dealloc__(self):
        hpack_clear(&self.table, &self.pool)
        pool_clear(&self.pool)

    def limit(self, uint32_t size):
        """The table size that we announced has been acknowledged."""
        hpack_decoder_limit(&self.table, size)

    def decode(self, bytes block):
        """[(name, value, never indexed, malformed)]; None when the block is broken; "overflow" when it is too large."""
        cdef HpackOut out
        cdef uint8_t *p = <uint8_t *>malloc(len(block) or 1)
        memcpy(p, <const char *>block, len(block))
        out.fields = decoded
        out.fields_max = HEADERS_CAP
        out.arena = arena
        out.list_max = self.list_max
        cdef int result = hpack_decode(&self.table, &self.pool, p, <uint32_t>len(block), &out)
        free(p)
        if result < 0:
            return None
        if out.overflow:
            return "overflow"
        return [
            (name, value, bool(decoded[i].pad & FF_NEVER), bool(decoded[i].pad & FF_MALFORMED))
            for i, (name, value) in enumerate(fields_of(decoded, out.nfields))
        ]

    def loop(self, bytes block, uint32_t times):
        """Decodes a block so many times; fields decoded in all."""
        cdef HpackOut out
        cdef uint32_t _, total = 0
        cdef const uint8_t *p = block
        cdef uint32_t n = <uint32_t>len(block)
        out.fields = decoded
        out.fields_max = HEADERS_CAP
        out.arena = arena
        out.list_max = self.list_max
        with nogil:
            for _ in range(times):
                hpack_decode(&self.table, &self.pool, p, n, &out)
                total += out.nfields
        return total

    @property
    def entries(self):
        return hpack_count(&self.table)

    @property
    def size(self):
        return self.table.size

    @property
    def pool_used(self):
        return self.pool.used


cdef class Encoder:
    """One side's HPACK encoder with a table of `size` bytes at most."""
    cdef HpackTable table
    cdef Pool pool
    cdef uint32_t wanted

    def __cinit__(self, uint32_t size=0, bint huffman=False):
        pool_init(&self.pool, 1 << 20)
        hpack_init(&self.table, 4096)
        hpack_encoder_limit(&self.table, &self.pool, 4096, size)
        self.table.huffman = huffman
        self.wanted = size

    def __dealloc__(self):
        hpack_clear(&self.table, &self.pool)
        pool_clear(&self.pool)

    def limit(self, uint32_t size):
        """The peer's SETTINGS_HEADER_TABLE_SIZE."""
        hpack_encoder_limit(&self.table, &self.pool, size, self.wanted)

    def encode(self, list fields):
        """fields: (name, value, "index" | "never" | "")."""
        cdef char *at = hpack_begin(&self.table, output)
        cdef Header[HEADERS_CAP] placed
        flags = {"index": FF_INDEX, "never": FF_NEVER, "": 0}
        plain = [(name, value, flags[how]) for name, value, how in fields]
        cdef uint32_t n = place_fields(plain, placed), i
        for i in range(n):
            at = hpack_put(&self.table, &self.pool, &placed[i], at)
        return output[:at - output]

    def loop(self, list fields, uint32_t times):
        """Encodes these fields so many times; bytes in all."""
        cdef char *at
        cdef Header[HEADERS_CAP] placed
        plain = [(field[0], field[1], FF_INDEX) for field in fields]
        cdef uint32_t n = place_fields(plain, placed), i, _, total = 0
        with nogil:
            for _ in range(times):
                at = hpack_begin(&self.table, output)
                for i in range(n):
                    at = hpack_put(&self.table, &self.pool, &placed[i], at)
                total += <uint32_t>(at - output)
        return total

    @property
    def size(self):
        return self.table.size
