# The beginning and the end of a connection, and SETTINGS (RFC 9113 3.4, 6.5, 6.8).
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from flyproxy._speedups.mem.buf cimport Pool
from flyproxy._speedups.mem.slab cimport Slab
from flyproxy._speedups.proto.hpack cimport hpack_clear, hpack_decoder_limit, hpack_init
from flyproxy._speedups.proto.hpack_encode cimport hpack_encoder_limit
from flyproxy._speedups.proto.http2_budget cimport budgets_init
from flyproxy._speedups.proto.http2_frames cimport (
    FF_ACK, FT_SETTINGS, SE_ENABLE_CONNECT_PROTOCOL, SE_ENABLE_PUSH, SE_HEADER_TABLE_SIZE, SE_INITIAL_WINDOW_SIZE,
    SE_MAX_CONCURRENT_STREAMS, SE_MAX_FRAME_SIZE, SE_MAX_HEADER_LIST_SIZE, get32, put_frame_head, put_goaway, put_ping,
    put_setting, put_window_update,
)
from flyproxy._speedups.proto.http2_streams cimport stream_release
from flyproxy._speedups.proto.http2_types cimport (
    EV_ERROR, FLOW_CONTROL_ERROR, H2_CONTROL_ROOM, H2_FRAME_MAX, H2_FRAME_TRUSTED, NO_ERROR, PROTOCOL_ERROR,
)
from flyproxy._speedups.proto.http2_window cimport WINDOW_DEFAULT, WINDOW_MAX, receiving_init, window_add
from flyproxy._speedups.proto.text cimport put

cdef enum:
    HPACK_DEFAULT = 4096        # RFC 7541 4.2: the table before any SETTINGS
    FRAME_LARGEST = (1 << 24) - 1
    SETTINGS = 5

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef const char *DRAIN_PING = b"flydrain"


cdef void http2_init(Http2 *c, const H2Config *config, Pool *pool, Slab *slab, uint64_t now_ms) noexcept nogil:
    memset(c, 0, sizeof(Http2))
    c.config = config
    c.pool = pool
    c.slab = slab
    hpack_init(&c.decoder, HPACK_DEFAULT)
    if config.decoder_table > HPACK_DEFAULT:    # a larger one may be used as soon as the peer has read our SETTINGS
        c.decoder.limit = config.decoder_table
    hpack_init(&c.encoder, HPACK_DEFAULT)
    hpack_encoder_limit(&c.encoder, pool, HPACK_DEFAULT, config.encoder_table)
    c.encoder.huffman = config.huffman
    c.sched.quantum = H2_FRAME_TRUSTED if config.trusted else H2_FRAME_MAX
    budgets_init(&c.budgets, now_ms)
    receiving_init(&c.receiving, WINDOW_DEFAULT)
    c.send_left = WINDOW_DEFAULT
    c.peer.streams = WINDOW_MAX
    c.peer.stream_window = WINDOW_DEFAULT
    c.peer.frame = H2_FRAME_MAX
    c.peer.list_max = 0xFFFFFFFF
    c.accept_max = c.goaway_last = WINDOW_MAX


cdef void http2_clear(Http2 *c) noexcept nogil:
    while c.streams != NULL:
        stream_release(c, c.streams)
    hpack_clear(&c.decoder, c.pool)
    hpack_clear(&c.encoder, c.pool)


# Preface, SETTINGS and, for a larger connection window, the WINDOW_UPDATE that SETTINGS cannot say.
cdef int http2_start(Http2 *c, H2Io *io) noexcept nogil:
    cdef const H2Config *config = c.config
    cdef char *out = io.out + io.out_n
    if io.out_cap - io.out_n < H2_CONTROL_ROOM:
        return 0
    if not config.server:
        out = put(out, PREFACE, 24)
    out = put_frame_head(out, 6 * (SETTINGS + config.trusted), FT_SETTINGS, 0, 0)
    out = put_setting(out, SE_HEADER_TABLE_SIZE, config.decoder_table)
    out = put_setting(out, SE_INITIAL_WINDOW_SIZE, config.stream_window)
    out = put_setting(out, SE_MAX_HEADER_LIST_SIZE, config.list_max)
    if config.server:
        out = put_setting(out, SE_MAX_CONCURRENT_STREAMS, config.streams)
        out = put_setting(out, SE_ENABLE_CONNECT_PROTOCOL, config.connect_protocol)
    else:
        out = put_setting(out, SE_MAX_CONCURRENT_STREAMS, 0)
        out = put_setting(out, SE_ENABLE_PUSH, 0)
    if config.trusted:
        out = put_setting(out, SE_MAX_FRAME_SIZE, H2_FRAME_TRUSTED)
    c.unacked = 1
    if config.connection_window > WINDOW_DEFAULT:
        out = put_window_update(out, 0, config.connection_window - WINDOW_DEFAULT)
        receiving_init(&c.receiving, config.connection_window)
    io.out_n = <uint32_t>(out - io.out)
    return 1


# -- shutting down: the first GOAWAY takes nothing back, the second comes when the peer has seen the first

cdef int http2_drain(Http2 *c, H2Io *io) noexcept nogil:
    cdef char *out = io.out + io.out_n
    if io.out_cap - io.out_n < H2_CONTROL_ROOM:
        return 0
    if c.draining == 0 and not c.failed:
        c.draining = 1
        out = put_ping(put_goaway(out, WINDOW_MAX, NO_ERROR), 0, DRAIN_PING)
        io.out_n = <uint32_t>(out - io.out)
    return 1


cdef int http2_drain_end(Http2 *c, H2Io *io) noexcept nogil:
    if io.out_cap - io.out_n < H2_CONTROL_ROOM:
        return 0
    if c.draining < 2 and not c.failed:
        c.draining = 2
        c.accept_max = c.last_peer
        io.out_n = <uint32_t>(put_goaway(io.out + io.out_n, c.last_peer, NO_ERROR) - io.out)
    return 1


cdef void http2_fail(Http2 *c, uint32_t code, H2Io *io, H2Event *ev) noexcept nogil:
    if not c.failed and io.out_cap - io.out_n >= 17:
        io.out_n = <uint32_t>(put_goaway(io.out + io.out_n, c.last_peer, code) - io.out)
    c.failed = 1
    memset(ev, 0, sizeof(H2Event))
    ev.type = EV_ERROR
    ev.code = code


# -- SETTINGS

# 6.9.2: windows of all open streams move with the initial one.
cdef uint32_t set_initial_window(Http2 *c, uint32_t value) noexcept nogil:
    cdef H2Stream *stream = c.streams
    while stream != NULL:
        if not window_add(&stream.send_left, <long long>value - c.peer.stream_window):
            return FLOW_CONTROL_ERROR
        stream = stream.next
    c.peer.stream_window = value
    return NO_ERROR


cdef uint32_t take_setting(Http2 *c, uint16_t id, uint32_t value, uint32_t *window) noexcept nogil:
    if id == SE_HEADER_TABLE_SIZE:
        hpack_encoder_limit(&c.encoder, c.pool, value, c.config.encoder_table)
    elif id == SE_ENABLE_PUSH:
        return PROTOCOL_ERROR if value > <uint32_t>c.config.server else NO_ERROR
    elif id == SE_MAX_CONCURRENT_STREAMS:
        c.peer.streams = value
    elif id == SE_INITIAL_WINDOW_SIZE:
        if value > WINDOW_MAX:
            return FLOW_CONTROL_ERROR
        window[0] = value
    elif id == SE_MAX_FRAME_SIZE:
        if value < H2_FRAME_MAX or value > FRAME_LARGEST:
            return PROTOCOL_ERROR
        c.peer.frame = value
    elif id == SE_MAX_HEADER_LIST_SIZE:
        c.peer.list_max = value
    elif id == SE_ENABLE_CONNECT_PROTOCOL:      # RFC 8441 3: never taken back
        if value > 1 or value < c.peer.connect_protocol:
            return PROTOCOL_ERROR
        c.peer.connect_protocol = <uint8_t>value
    return NO_ERROR


cdef uint32_t settings_apply(Http2 *c, const Frame *f, H2Io *io) noexcept nogil:
    cdef uint32_t at, error, window = c.peer.stream_window
    cdef const uint8_t *p
    for at in range(0, f.length, 6):
        p = f.payload + at
        error = take_setting(c, <uint16_t>(p[0] << 8 | p[1]), get32(p + 2), &window)
        if error:
            return error
    if window != c.peer.stream_window:      # the last one only: a frame full of them costs one walk
        error = set_initial_window(c, window)
        if error:
            return error
    io.out_n = <uint32_t>(put_frame_head(io.out + io.out_n, 0, FT_SETTINGS, FF_ACK, 0) - io.out)
    return NO_ERROR


# Streams of before got the default window if ours is smaller (stream_open): 6.9.2 for the receiving side.
cdef void settings_acknowledged(Http2 *c) noexcept nogil:
    cdef H2Stream *stream = c.streams
    if not c.unacked:
        return
    c.unacked = 0
    hpack_decoder_limit(&c.decoder, c.config.decoder_table)
    while stream != NULL and c.config.stream_window < WINDOW_DEFAULT:
        stream.receiving.left -= <int>(WINDOW_DEFAULT - c.config.stream_window)
        stream = stream.next
