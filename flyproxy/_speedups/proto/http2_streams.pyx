# The map from stream id to stream: open addressing in a pooled block that grows by doubling and is given back with the
# last stream, so an idle connection has none.
from libc.stdint cimport uint32_t
from libc.string cimport memset
from flyproxy._speedups.mem.buf cimport Buf, buf_give, buf_take
from flyproxy._speedups.mem.slab cimport SLAB_NONE, slab_at, slab_give, slab_take
from flyproxy._speedups.proto.http2_sched cimport sched_stalled
from flyproxy._speedups.proto.http2_types cimport H2_RESETS_KNOWN, H2Entry
from flyproxy._speedups.proto.http2_window cimport WINDOW_DEFAULT, receiving_init

cdef enum:
    FIRST_MAP = 2048            # bytes: 128 streams at half load


cdef inline uint32_t map_mask(const Http2 *c) noexcept nogil:
    return c.map.cap / <uint32_t>sizeof(H2Entry) - 1


# Ids of one side are every second number: halved, they fill neighbouring places.
cdef H2Entry *map_place(const Http2 *c, uint32_t id) noexcept nogil:
    cdef H2Entry *entries = <H2Entry *>c.map.data
    cdef uint32_t mask = map_mask(c), at = (id >> 1) & mask
    while entries[at].id != 0 and entries[at].id != id:
        at = (at + 1) & mask
    return &entries[at]


cdef int map_grow(Http2 *c) noexcept nogil:
    cdef Buf old = c.map
    cdef H2Entry *entries = <H2Entry *>old.data
    cdef uint32_t i
    if old.data != NULL and (c.count + 1) * 2 * sizeof(H2Entry) <= old.cap:
        return 1
    c.map.data = NULL
    if not buf_take(c.pool, &c.map, old.cap * 2 if old.data != NULL else FIRST_MAP):
        c.map = old
        return 0
    memset(c.map.data, 0, c.map.cap)
    if old.data != NULL:
        for i in range(old.cap / <uint32_t>sizeof(H2Entry)):
            if entries[i].id:
                map_place(c, entries[i].id)[0] = entries[i]
        buf_give(c.pool, &old)
    return 1


# Closes the gap: entries behind it move up unless they would pass their own place.
cdef void map_remove(Http2 *c, uint32_t id) noexcept nogil:
    cdef H2Entry *entries = <H2Entry *>c.map.data
    cdef uint32_t mask = map_mask(c), gap = <uint32_t>(map_place(c, id) - entries), at = gap, home
    while True:
        at = (at + 1) & mask
        if entries[at].id == 0:
            break
        home = (entries[at].id >> 1) & mask
        if ((at - home) & mask) >= ((at - gap) & mask):
            entries[gap] = entries[at]
            gap = at
    entries[gap].id = 0


cdef H2Stream *stream_find(const Http2 *c, uint32_t id) noexcept nogil:
    cdef H2Entry *entry
    if c.map.data == NULL:
        return NULL
    entry = map_place(c, id)
    return <H2Stream *>slab_at(c.slab, entry.index) if entry.id else NULL


cdef H2Stream *stream_open(Http2 *c, uint32_t id) noexcept nogil:
    cdef H2Stream *stream
    cdef H2Entry *entry
    cdef uint32_t index
    if not map_grow(c):
        return NULL
    index = slab_take(c.slab)
    if index == SLAB_NONE:
        return NULL
    entry = map_place(c, id)
    entry.id = id
    entry.index = index
    stream = <H2Stream *>slab_at(c.slab, index)
    stream.id = id
    stream.index = index
    stream.expected = -1
    stream.send_left = <int>c.peer.stream_window
    receiving_init(&stream.receiving, c.config.stream_window)
    if c.unacked and c.config.stream_window < WINDOW_DEFAULT:
        stream.receiving.left = WINDOW_DEFAULT      # the peer may not know of ours yet
    stream.next = c.streams
    if c.streams != NULL:
        c.streams.prev = stream
    c.streams = stream
    c.count += 1
    c.peer_count += stream_is_peers(c, id)
    return stream


cdef void stream_release(Http2 *c, H2Stream *stream) noexcept nogil:
    sched_stalled(&c.sched, &stream.node)
    if stream.prev != NULL:
        stream.prev.next = stream.next
    else:
        c.streams = stream.next
    if stream.next != NULL:
        stream.next.prev = stream.prev
    map_remove(c, stream.id)
    c.count -= 1
    c.peer_count -= stream_is_peers(c, stream.id)
    slab_give(c.slab, stream.index)
    if c.count == 0:
        buf_give(c.pool, &c.map)


# A ring of the latest ids; of older ones only the highest is known, and below it the benefit of doubt is given.
cdef void stream_remember_reset(Http2 *c, uint32_t id) noexcept nogil:
    cdef uint32_t *place = &c.resets[c.resets_at % H2_RESETS_KNOWN]
    c.resets_at = (c.resets_at + 1) % H2_RESETS_KNOWN
    if place[0] > c.forgotten:
        c.forgotten = place[0]
    place[0] = id


cdef int stream_was_reset(const Http2 *c, uint32_t id) noexcept nogil:
    cdef uint32_t i
    if id <= c.forgotten:
        return 1
    for i in range(H2_RESETS_KNOWN):
        if c.resets[i] == id:
            return 1
    return 0
