# The life of a stream as one table (RFC 9113 5.1), in csrc/fp_http2.h. Pushed streams do not exist here: we forbid them
# and never promise. What frames mean beside their place in the life of a stream is not known here.
from libc.stdint cimport uint8_t

cdef extern from "fp_http2.h" nogil:
    enum:                       # StreamState
        ST_IDLE
        ST_OPEN
        ST_HALF_LOCAL
        ST_HALF_REMOTE
        ST_CLOSED
        ST_RESET
        STREAM_STATES
    enum:                       # StreamInput
        IN_HEADERS
        IN_HEADERS_END
        IN_DATA
        IN_DATA_END
        IN_RST
        IN_WINDOW
        OUT_HEADERS
        OUT_HEADERS_END
        OUT_DATA
        OUT_DATA_END
        OUT_RST
        STREAM_INPUTS
    enum:                       # Verdict
        V_OK
        V_IGNORE
        V_STREAM
        V_CONNECTION
        V_CLOSED
        V_REFUSED
    const uint8_t[6][11] stream_steps "fp_stream_steps"

# The Verdict; only V_OK changes the state.
cdef inline uint8_t stream_step(uint8_t *state, uint8_t step) noexcept nogil:
    cdef uint8_t next = stream_steps[state[0]][step]
    if next >> 4 == V_OK:
        state[0] = next
    return next >> 4
