"""splice(2): bytes go from socket to socket inside the kernel, through a pipe held only while it is not empty."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef extern from "<fcntl.h>" nogil:
    enum: O_NONBLOCK, O_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ, SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    int fcntl(int fd, int command, ...)
    ssize_t splice(int fd_in, void *off_in, int fd_out, void *off_out, size_t n, unsigned int flags)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int fds[2], int flags)
    int close(int fd)


cdef void pipes_init(PipePool *pool) noexcept nogil:
    memset(pool, 0, sizeof(PipePool))


cdef void discard(PipePool *pool, Pipe *p) noexcept nogil:
    close(p.fd_in)
    close(p.fd_out)
    free(p)
    pool.open -= 1


cdef void pipes_clear(PipePool *pool) noexcept nogil:
    cdef Pipe *p
    while pool.free_head != NULL:
        p = pool.free_head
        pool.free_head = p.next
        discard(pool, p)
    pool.idle = 0


cdef Pipe *pipe_take(PipePool *pool) noexcept nogil:
    cdef Pipe *p = pool.free_head
    cdef int fds[2]
    cdef int cap
    if p != NULL:
        pool.free_head = p.next
        pool.idle -= 1
        return p
    if pool.open >= PIPES_MAX or pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0:
        return NULL
    p = <Pipe *>malloc(sizeof(Pipe))
    if p == NULL:
        close(fds[0])
        close(fds[1])
        return NULL
    fcntl(fds[1], F_SETPIPE_SZ, <int>PIPE_BYTES)        # may be refused: what we got is asked for next
    cap = fcntl(fds[1], F_GETPIPE_SZ)
    p.fd_out = fds[0]
    p.fd_in = fds[1]
    p.cap = <uint32_t>cap if cap > 0 else 4096
    p.bytes = 0
    pool.open += 1
    return p


cdef void pipe_give(PipePool *pool, Pipe *p) noexcept nogil:
    if p.bytes or pool.idle >= PIPES_KEPT:
        discard(pool, p)
        return
    p.next = pool.free_head
    pool.free_head = p
    pool.idle += 1


cdef int64_t pipe_fill(Pipe *p, int fd, uint64_t most) noexcept nogil:
    cdef size_t room = p.cap - p.bytes
    cdef ssize_t n = splice(fd, NULL, p.fd_in, NULL, room if room < most else most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
    if n < 0:
        return -errno
    p.bytes += <uint32_t>n
    return n


cdef int64_t pipe_drain(Pipe *p, int fd) noexcept nogil:
    # Without SPLICE_F_MORE: nobody knows when more comes, and the kernel would hold a partial segment back until then.
    cdef ssize_t n = splice(p.fd_out, NULL, fd, NULL, p.bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
    if n < 0:
        return -errno
    p.bytes -= <uint32_t>n
    return n
