# splice(2) through a capped pool of pipes. A pipe is held only while bytes are in transit; without one the caller
# copies.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    PIPE_BYTES = 256 << 10      # wanted capacity; the kernel may grant less to an unprivileged user
    PIPES_MAX = 512             # per worker
    PIPES_KEPT = 64             # idle ones kept open

cdef struct Pipe:
    int fd_in
    int fd_out
    uint32_t cap
    uint32_t bytes              # in transit
    Pipe *next

cdef struct PipePool:
    Pipe *free_head
    uint32_t open
    uint32_t idle

cdef void pipes_init(PipePool *pool) noexcept nogil
cdef void pipes_clear(PipePool *pool) noexcept nogil
cdef Pipe *pipe_take(PipePool *pool) noexcept nogil         # NULL: none to be had
# A pipe that still holds bytes is closed, an empty one kept.
cdef void pipe_give(PipePool *pool, Pipe *p) noexcept nogil
cdef int64_t pipe_fill(Pipe *p, int fd, uint64_t most) noexcept nogil       # bytes moved in, 0 end of stream, or -errno
cdef int64_t pipe_drain(Pipe *p, int fd) noexcept nogil         # bytes moved out, or -errno
