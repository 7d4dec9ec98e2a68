# HTTP/2 (RFC 9113, 7541, 8441), both sides of a connection: bytes in, events out; commands in, bytes out. Knows no
# socket and no clock. This is the page to cimport from; docs/http2.md tells the promises and the limits.
#
# One connection, one thread. Buffers are lent by the caller with every call (H2Io) and may be shared by all
# connections of a worker. Memory of a connection: its struct, and from the pool the HPACK tables (from their first
# entry on), the map of streams (while there are any) and one slab element for each stream.
#
# A command answers 1, or 0 when io.out has too little room or the stream's state forbids it; it has then done nothing.
# Every stream that an event or http2_request gave to the caller is the caller's until http2_release, whatever happens
# to it: it counts against `streams` so long, because its work does.

# -- types, limits, codes, events
from flyproxy._speedups.proto.http2_types cimport *

# -- life: init; start writes preface and SETTINGS. drain and drain_end are the two steps of a graceful end: the second
# happens by itself when the peer answers a PING, or when the caller loses patience. Over when draining == 2 and
# count == 0. fail: the caller wants the connection gone; the event is EV_ERROR. clear gives back everything, streams
# included.
from flyproxy._speedups.proto.http2_connection cimport (
    http2_clear, http2_drain, http2_drain_end, http2_fail, http2_init, http2_start,
)

# -- reading: int64_t http2_read(c, buf, n, io, ev)
#   Bytes of buf used; one event at most. Call it until ev.type is EV_NONE (more bytes are needed; what was not used
#   must be given again, in one piece, with what follows it) or EV_BLOCKED. That is never more than H2_INPUT_MAX bytes.
from flyproxy._speedups.proto.http2_read cimport http2_read

# -- streams: stream_find(c, id), or NULL. http2_release gives the stream back and tells the peer nothing: one that is
# not over must be reset first, with NO_ERROR after an early answer (RFC 9113 8.1).
from flyproxy._speedups.proto.http2_streams cimport stream_find, stream_release as http2_release

#   A stream whose state is ST_CLOSED or above is over.
from flyproxy._speedups.proto.http2_states cimport ST_CLOSED

# -- heads. `extra` fields follow those of the head; names are made lower case; pad FF_NEVER: kept out of all tables.
#   http2_request: NULL also when the peer takes no more streams, or no extended CONNECT (RQ_UPGRADE).
#   http2_fits(c, text, fields, n, extra, nextra): 0 for what a trusted peer will never take; ask first, because the
#   commands say 0 to it for ever. `text`: bytes of the target and of Upgrade.
#   Connection-specific fields are left out: a 426 loses its Upgrade.
# -- bodies: http2_sendable is the largest frame that the windows allow now. http2_data writes the head of a DATA frame
#   of n bytes; the caller puts the n bytes behind it. http2_drained: n bytes of received DATA (H2Event.window) were
#   passed on; http2_grow: the stream may have `target` bytes on the way.
# -- taking turns: http2_ready when a stream has data (and again at its EV_WINDOW), http2_stalled when it has none left,
#   http2_next for whose turn it is and how many bytes it may send.
from flyproxy._speedups.proto.http2_write cimport (
    http2_data, http2_drained, http2_fits, http2_grow, http2_next, http2_ping, http2_ready, http2_request, http2_reset,
    http2_response, http2_sendable, http2_stalled, http2_trailers,
)
