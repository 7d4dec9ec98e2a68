# Faults and their price. A fault on one stream must not harm the riders of the others, so whatever RFC 9113 leaves
# open is a stream error here; but resets that a peer provokes are counted, because each may have started work
# (MadeYouReset).
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.proto.http2_budget cimport B_IGNORED, B_OWN_RESET, budget_take
from flyproxy._speedups.proto.http2_connection cimport http2_fail
from flyproxy._speedups.proto.http2_frames cimport put_rst_stream, put_window_update
from flyproxy._speedups.proto.http2_sched cimport sched_stalled
from flyproxy._speedups.proto.http2_states cimport ST_RESET, V_CLOSED, V_IGNORE, V_STREAM
from flyproxy._speedups.proto.http2_streams cimport (
    stream_is_peers, stream_release, stream_remember_reset, stream_was_reset,
)
from flyproxy._speedups.proto.http2_types cimport (
    ENHANCE_YOUR_CALM, EV_RESET, PROTOCOL_ERROR, SF_ANNOUNCED, STREAM_CLOSED,
)
from flyproxy._speedups.proto.http2_window cimport receiving_drained


cdef int charge(Http2 *c, uint8_t budget, H2Io *io, H2Event *ev) noexcept nogil:
    if c.config.trusted or budget_take(&c.budgets, budget, io.now_ms):
        return 1
    http2_fail(c, ENHANCE_YOUR_CALM, io, ev)
    return 0


cdef void fault_id(Http2 *c, uint32_t id, uint32_t code, H2Io *io, H2Event *ev) noexcept nogil:
    if charge(c, B_OWN_RESET, io, ev):
        io.out_n = <uint32_t>(put_rst_stream(io.out + io.out_n, id, code) - io.out)
        stream_remember_reset(c, id)


cdef void fault_stream(Http2 *c, H2Stream *stream, uint32_t code, H2Io *io, H2Event *ev) noexcept nogil:
    fault_id(c, stream.id, code, io, ev)
    if c.failed:
        return
    if not stream.flags & SF_ANNOUNCED:
        stream_release(c, stream)
        return
    stream.state = ST_RESET
    sched_stalled(&c.sched, &stream.node)
    ev.type = EV_RESET
    ev.stream = stream
    ev.code = code
    ev.by_us = 1


cdef void fault_verdict(Http2 *c, H2Stream *stream, uint8_t verdict, H2Io *io, H2Event *ev) noexcept nogil:
    if verdict == V_IGNORE:
        charge(c, B_IGNORED, io, ev)
    elif verdict == V_STREAM:
        fault_stream(c, stream, STREAM_CLOSED, io, ev)
    else:
        http2_fail(c, STREAM_CLOSED if verdict == V_CLOSED else PROTOCOL_ERROR, io, ev)


cdef bint stream_is_idle(const Http2 *c, uint32_t id) noexcept nogil:
    return id > (c.last_peer if stream_is_peers(c, id) else c.last_ours)


# Streams above accept_max were never opened: what comes for them is ignored (6.8).
cdef void fault_gone(Http2 *c, uint32_t id, bint tolerated, H2Io *io, H2Event *ev) noexcept nogil:
    if stream_is_idle(c, id) and not (id > c.accept_max and stream_is_peers(c, id)):
        http2_fail(c, PROTOCOL_ERROR, io, ev)
    elif tolerated or id > c.accept_max or stream_was_reset(c, id):
        charge(c, B_IGNORED, io, ev)
    else:
        http2_fail(c, STREAM_CLOSED, io, ev)


cdef void credit_connection(Http2 *c, uint32_t n, H2Io *io) noexcept nogil:
    cdef uint32_t due = receiving_drained(&c.receiving, n)
    if due:
        io.out_n = <uint32_t>(put_window_update(io.out + io.out_n, 0, due) - io.out)
