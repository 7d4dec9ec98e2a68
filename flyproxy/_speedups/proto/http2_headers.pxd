# Field blocks (RFC 9113 6.2, 6.10): HEADERS and its CONTINUATION frames, decoded and given to their stream.
from libc.stdint cimport int64_t, uint32_t
from flyproxy._speedups.proto.http2_frames cimport Frame
from flyproxy._speedups.proto.http2_types cimport H2Event, H2Io, Http2

# `f`: a HEADERS frame of which `have` bytes of payload and what follows have come. Bytes used behind the frame's head,
# or -1 while the block is not whole.
cdef int64_t read_headers(Http2 *c, const Frame *f, uint32_t have, H2Io *io, H2Event *ev) noexcept nogil
