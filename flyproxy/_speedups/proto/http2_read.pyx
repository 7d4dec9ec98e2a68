# Frames read one at a time (RFC 9113 6). Knows frames and which event each becomes; the life of streams is in the table
# of http2_states, field blocks are in http2_headers. Bytes stay in the caller's buffer until a frame can be used; only
# DATA is passed on as it comes.
#
#   preface -> [frame head -> check -> reader of its type]* ; a reader uses bytes, makes at most one event, or fails
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memset
from flyproxy._speedups.proto.http2_budget cimport (
    B_EMPTY_DATA, B_IGNORED, B_PING, B_RESET, B_SETTINGS, B_WINDOW,
)
from flyproxy._speedups.proto.http2_connection cimport (
    http2_drain_end, http2_fail, settings_acknowledged, settings_apply,
)
from flyproxy._speedups.proto.http2_faults cimport (
    charge, credit_connection, fault_gone, fault_stream, fault_verdict,
)
from flyproxy._speedups.proto.http2_frames cimport (
    FF_ACK, FF_END_STREAM, FF_PADDED, FT_CONTINUATION, FT_DATA, FT_GOAWAY, FT_HEADERS, FT_PING, FT_PRIORITY,
    FT_PUSH_PROMISE, FT_RST_STREAM, FT_SETTINGS, FT_WINDOW_UPDATE, Frame, frame_head, get32, put_ping,
    put_window_update,
)
from flyproxy._speedups.proto.http2_headers cimport read_headers
from flyproxy._speedups.proto.http2_sched cimport sched_stalled
from flyproxy._speedups.proto.http2_states cimport IN_DATA, IN_DATA_END, IN_RST, IN_WINDOW, ST_RESET, V_OK, stream_step
from flyproxy._speedups.proto.http2_streams cimport stream_find, stream_is_peers
from flyproxy._speedups.proto.http2_types cimport (
    EV_ACKNOWLEDGED, EV_BLOCKED, EV_DATA, EV_GOAWAY, EV_NONE, EV_PONG, EV_RESET, EV_SETTINGS, EV_WINDOW,
    FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, H2_CONTROL_ROOM, H2_FRAME_HEAD, H2_FRAME_MAX, H2_FRAME_TRUSTED,
    PROTOCOL_ERROR, REFUSED_STREAM, SF_FINAL, H2Stream,
)
from flyproxy._speedups.proto.http2_window cimport receiving_drained, receiving_take, window_add

cdef enum:
    PREFACE_N = 24

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef const char *DRAIN_PING = b"flydrain"


# -- DATA (6.1)

cdef int64_t read_data(Http2 *c, const Frame *f, uint32_t have, H2Io *io, H2Event *ev) noexcept nogil:
    cdef H2Stream *stream
    cdef uint32_t padding = 0, prefix = (f.flags & FF_PADDED) >> 3
    cdef bint end = f.flags & FF_END_STREAM
    cdef uint8_t verdict
    if prefix:
        if have == 0 and f.length:
            return -1
        padding = f.payload[0] if f.length else 0
        if padding >= f.length:
            http2_fail(c, PROTOCOL_ERROR, io, ev)
            return 0
    if f.stream == 0 or not receiving_take(&c.receiving, f.length):
        http2_fail(c, FLOW_CONTROL_ERROR if f.stream else PROTOCOL_ERROR, io, ev)
        return 0
    credit_connection(c, f.length, io)
    c.skip = f.length - prefix      # until the stream wants it
    stream = stream_find(c, f.stream)
    if stream == NULL:
        fault_gone(c, f.stream, False, io, ev)
        return prefix
    verdict = stream_step(&stream.state, IN_DATA)      # its end comes with the last byte
    if verdict != V_OK:
        fault_verdict(c, stream, verdict, io, ev)
        return prefix
    start_data(c, stream, f.length, padding + prefix, end, io, ev)
    return prefix


# The stream takes `length` bytes of which `idle` are padding.
cdef void start_data(Http2 *c, H2Stream *stream, uint32_t length, uint32_t idle, bint end, H2Io *io,
                     H2Event *ev) noexcept nogil:
    cdef uint32_t content = length - idle
    if not receiving_take(&stream.receiving, length):
        fault_stream(c, stream, FLOW_CONTROL_ERROR, io, ev)
        return
    if stream.expected >= 0 and (content > stream.expected or (end and content != stream.expected)):
        fault_stream(c, stream, PROTOCOL_ERROR, io, ev)     # 8.1.1
        return
    if not c.config.server and not stream.flags & SF_FINAL:
        fault_stream(c, stream, PROTOCOL_ERROR, io, ev)     # before the head
        return
    if content == 0 and not end and not charge(c, B_EMPTY_DATA, io, ev):
        return
    if stream.expected >= 0:
        stream.expected -= content
    c.data_id = stream.id
    c.data_left = content
    c.data_end = end
    c.skip = 0 if idle == 0 else idle - 1       # the length of the padding has been read
    if idle:
        credit_padding(c, stream, idle, io)
    if content == 0 and end:
        finish_data(c, stream, ev)


# Padding takes window and has no reader: it is given back at once.
cdef void credit_padding(Http2 *c, H2Stream *stream, uint32_t n, H2Io *io) noexcept nogil:
    cdef uint32_t due = receiving_drained(&stream.receiving, n)
    if due and not c.data_end:
        io.out_n = <uint32_t>(put_window_update(io.out + io.out_n, stream.id, due) - io.out)


cdef void finish_data(Http2 *c, H2Stream *stream, H2Event *ev) noexcept nogil:
    stream_step(&stream.state, IN_DATA_END)
    ev.type = EV_DATA
    ev.stream = stream
    ev.end = 1
    c.data_end = 0


# Bytes of the current frame's content, as many as have come.
cdef int64_t pass_data(Http2 *c, const char *p, uint32_t n, H2Event *ev) noexcept nogil:
    cdef H2Stream *stream = stream_find(c, c.data_id)
    cdef uint32_t taken = n if n < c.data_left else c.data_left
    c.data_left -= taken
    if stream == NULL or stream.state == ST_RESET:      # reset by the caller in the middle of the frame
        return taken
    ev.type = EV_DATA
    ev.stream = stream
    ev.data.p = p
    ev.data.n = ev.window = taken
    if c.data_left == 0 and c.data_end:
        finish_data(c, stream, ev)
    return taken


# -- small frames: whole before they are read

cdef void read_rst_stream(Http2 *c, const Frame *f, H2Io *io, H2Event *ev) noexcept nogil:
    cdef H2Stream *stream = stream_find(c, f.stream)
    cdef uint8_t verdict
    if stream == NULL:
        fault_gone(c, f.stream, True, io, ev)
        return
    verdict = stream_step(&stream.state, IN_RST)
    if verdict != V_OK:
        fault_verdict(c, stream, verdict, io, ev)
        return
    if c.config.server and not charge(c, B_RESET, io, ev):
        return
    sched_stalled(&c.sched, &stream.node)
    ev.type = EV_RESET
    ev.stream = stream
    ev.code = get32(f.payload)
    ev.retry = ev.code == REFUSED_STREAM


cdef void read_settings(Http2 *c, const Frame *f, H2Io *io, H2Event *ev) noexcept nogil:
    cdef uint32_t error
    if f.flags & FF_ACK:
        settings_acknowledged(c)
        ev.type = EV_ACKNOWLEDGED
        return
    if not charge(c, B_SETTINGS, io, ev):
        return
    error = settings_apply(c, f, io)
    if error:
        http2_fail(c, error, io, ev)
        return
    c.settled = 1
    ev.type = EV_SETTINGS


cdef void read_ping(Http2 *c, const Frame *f, H2Io *io, H2Event *ev) noexcept nogil:
    if not f.flags & FF_ACK:
        if charge(c, B_PING, io, ev):
            io.out_n = <uint32_t>(put_ping(io.out + io.out_n, FF_ACK, f.payload) - io.out)
        return
    if c.draining == 1 and memcmp(f.payload, DRAIN_PING, 8) == 0:
        http2_drain_end(c, io)      # all that was on its way before the first GOAWAY has come
        return
    ev.type = EV_PONG
    ev.data.p = <const char *>f.payload
    ev.data.n = 8


cdef void read_goaway(Http2 *c, const Frame *f, H2Event *ev) noexcept nogil:
    cdef uint32_t last = get32(f.payload) & 0x7FFFFFFF
    if last < c.goaway_last:        # 6.8: it never rises
        c.goaway_last = last
        c.sweeping = 1
    ev.type = EV_GOAWAY
    ev.code = get32(f.payload + 4)


cdef void read_window_update(Http2 *c, const Frame *f, H2Io *io, H2Event *ev) noexcept nogil:
    cdef uint32_t increment = get32(f.payload) & 0x7FFFFFFF
    cdef H2Stream *stream
    cdef uint8_t verdict
    if not charge(c, B_WINDOW, io, ev):
        return
    ev.type = EV_WINDOW
    if f.stream == 0:
        if increment == 0 or not window_add(&c.send_left, increment):
            http2_fail(c, FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR, io, ev)
        return
    ev.type = EV_NONE
    stream = stream_find(c, f.stream)
    if stream == NULL:
        fault_gone(c, f.stream, True, io, ev)
        return
    verdict = stream_step(&stream.state, IN_WINDOW)
    if verdict != V_OK:
        fault_verdict(c, stream, verdict, io, ev)
    elif increment == 0 or not window_add(&stream.send_left, increment):
        fault_stream(c, stream, FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR, io, ev)
    else:
        ev.type = EV_WINDOW
        ev.stream = stream


# -- one frame

cdef inline bint wrong_size(const Frame *f) noexcept nogil:
    if f.type == FT_SETTINGS:
        return f.length % 6 != 0 or (f.flags & FF_ACK and f.length != 0)
    if f.type == FT_PING:
        return f.length != 8
    if f.type == FT_RST_STREAM or f.type == FT_WINDOW_UPDATE:
        return f.length != 4
    return f.type == FT_GOAWAY and f.length < 8


# The H2Code of a connection error that the head of a frame alone shows.
cdef uint32_t check_frame(const Http2 *c, const Frame *f) noexcept nogil:
    if f.length > (H2_FRAME_TRUSTED if c.config.trusted else H2_FRAME_MAX) or wrong_size(f):
        return FRAME_SIZE_ERROR
    if not c.settled and (f.type != FT_SETTINGS or f.flags & FF_ACK):
        return PROTOCOL_ERROR       # 3.4: SETTINGS come first
    if f.type in (FT_SETTINGS, FT_PING, FT_GOAWAY):
        return PROTOCOL_ERROR if f.stream else 0
    if f.type in (FT_HEADERS, FT_PRIORITY, FT_RST_STREAM):
        return PROTOCOL_ERROR if f.stream == 0 else 0
    if f.type == FT_PUSH_PROMISE or f.type == FT_CONTINUATION:
        return PROTOCOL_ERROR       # forbidden by our SETTINGS; without a block that it continues
    return 0


# Unknown types and priority signals (5.3.2, 5.5) are skipped; a PRIORITY of a wrong size would be an error of a stream
# that may not exist, and is skipped, too.
cdef void skip_frame(Http2 *c, const Frame *f, H2Io *io, H2Event *ev) noexcept nogil:
    if charge(c, B_IGNORED, io, ev):
        c.skip = f.length


# Bytes used of p, head included; -1 when more are needed.
cdef int64_t read_frame(Http2 *c, const uint8_t *p, uint32_t n, H2Io *io, H2Event *ev) noexcept nogil:
    cdef Frame f
    cdef uint32_t error
    cdef int64_t used = 0
    if n < H2_FRAME_HEAD:
        return -1
    f = frame_head(p)
    error = check_frame(c, &f)
    n -= H2_FRAME_HEAD
    if error:
        http2_fail(c, error, io, ev)
        return 0
    if f.type == FT_DATA:
        used = read_data(c, &f, n, io, ev)
        return used + H2_FRAME_HEAD if used >= 0 else -1
    if f.type == FT_HEADERS:
        used = read_headers(c, &f, n, io, ev)
        return used + H2_FRAME_HEAD if used >= 0 else -1
    if f.type == FT_PRIORITY or f.type > FT_CONTINUATION:
        skip_frame(c, &f, io, ev)
        return H2_FRAME_HEAD
    if n < f.length and not (f.type == FT_GOAWAY and n >= 8):
        return -1
    if f.type == FT_RST_STREAM:
        read_rst_stream(c, &f, io, ev)
    elif f.type == FT_SETTINGS:
        read_settings(c, &f, io, ev)
    elif f.type == FT_PING:
        read_ping(c, &f, io, ev)
    elif f.type == FT_WINDOW_UPDATE:
        read_window_update(c, &f, io, ev)
    else:
        read_goaway(c, &f, ev)
        c.skip = f.length - 8
        return H2_FRAME_HEAD + 8
    return H2_FRAME_HEAD + f.length


# -- the connection

# Requests above the peer's GOAWAY were not processed: one event for each (6.8).
cdef void sweep(Http2 *c, H2Event *ev) noexcept nogil:
    cdef H2Stream *stream = c.streams
    while stream != NULL:
        if stream.id > c.goaway_last and not stream_is_peers(c, stream.id) and stream.state != ST_RESET:
            if stream_step(&stream.state, IN_RST) == V_OK:
                sched_stalled(&c.sched, &stream.node)
                ev.type = EV_RESET
                ev.stream = stream
                ev.code = REFUSED_STREAM
                ev.retry = 1
                return
        stream = stream.next
    c.sweeping = 0


cdef int64_t read_preface(Http2 *c, const char *p, uint32_t n, H2Io *io, H2Event *ev) noexcept nogil:
    cdef uint32_t taken = PREFACE_N - c.preface
    if n < taken:
        taken = n
    if memcmp(p, PREFACE + c.preface, taken) != 0:
        http2_fail(c, PROTOCOL_ERROR, io, ev)
        return 0
    c.preface += <uint8_t>taken
    return taken


# Bytes used, -1 when more are needed.
cdef int64_t read_step(Http2 *c, const char *p, uint32_t n, H2Io *io, H2Event *ev) noexcept nogil:
    cdef uint32_t taken
    if n == 0:
        return -1
    if c.config.server and c.preface < PREFACE_N:
        return read_preface(c, p, n, io, ev)
    if c.data_left:
        return pass_data(c, p, n, ev)
    if c.skip:
        taken = n if n < c.skip else c.skip
        c.skip -= taken
        return taken
    return read_frame(c, <const uint8_t *>p, n, io, ev)


cdef int64_t http2_read(Http2 *c, const char *buf, uint32_t n, H2Io *io, H2Event *ev) noexcept nogil:
    cdef uint32_t used = 0
    cdef int64_t step
    memset(ev, 0, sizeof(H2Event))
    if c.sweeping:
        sweep(c, ev)
    while ev.type == EV_NONE and not c.failed:
        if io.out_cap - io.out_n < H2_CONTROL_ROOM:
            ev.type = EV_BLOCKED
            break
        step = read_step(c, buf + used, n - used, io, ev)
        if step < 0:
            break
        used += <uint32_t>step
    return used
