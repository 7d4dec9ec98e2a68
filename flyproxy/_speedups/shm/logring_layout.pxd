# One process's ring in the logs segment: the text of the log itself, every line with its newline; it wraps anywhere.
from libc.stdint cimport uint64_t, uint8_t

cdef enum:
    RING_BYTES = 4194304        # power of two; 0.2 s of lines at 60 000 requests per second

cdef struct LogRing:            # then uint8_t data[RING_BYTES]
    uint64_t head               # bytes ever written; worker
    uint8_t pad0[56]
    uint64_t tail               # bytes ever read; control
    uint8_t pad1[56]
