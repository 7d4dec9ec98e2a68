# One process's ring in the logs segment. Records are a 32-bit length and the bytes; both may wrap.
from libc.stdint cimport uint64_t, uint8_t

cdef enum:
    RING_BYTES = 4194304        # power of two; 0.2 s of lines at 60 000 requests per second

cdef struct LogRing:            # then uint8_t data[RING_BYTES]
    uint64_t head               # bytes ever written; worker
    uint8_t pad0[56]
    uint64_t tail               # bytes ever read; control
    uint8_t pad1[56]
