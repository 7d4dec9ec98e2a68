"""Bulk bytes stay in the kernel: source socket -> pipe -> sink socket. A pipe is held only while it is not empty."""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint64_t

from flyproxy._speedups.flow.worker cimport CF_PROGRESS, READS_PER_TURN, Conn, Worker
from flyproxy._speedups.net.pipes cimport Pipe, pipe_drain, pipe_fill, pipe_give, pipe_take
from flyproxy._speedups.net.reactor cimport IO_IN, IO_OUT, IO_RDHUP
from flyproxy._speedups.shm.counters cimport LIM_PIPES


cdef void splice_release(Worker *w, Pipe **pipe) noexcept nogil:
    if pipe[0] != NULL:
        pipe_give(&w.pipes, pipe[0])
        pipe[0] = NULL


cdef int drain(Worker *w, Conn *sink, Pipe *pipe, uint64_t *moved) noexcept nogil:
    cdef int64_t n
    while pipe.bytes:
        if not sink.s.io & IO_OUT:
            return SP_SINK_FULL
        n = pipe_drain(pipe, sink.s.fd)
        if n == -EAGAIN:
            sink.s.io &= ~IO_OUT
            return SP_SINK_FULL
        if n <= 0:
            return SP_SINK_ERROR
        sink.flags |= CF_PROGRESS
        sink.sent += <uint64_t>n
        moved[0] += <uint64_t>n
    return SP_DONE


cdef int splice_through(
    Worker *w, Conn *source, Conn *sink, Pipe **pipe, uint64_t *left, uint64_t *moved
) noexcept nogil:
    cdef int64_t n
    cdef int _k, state
    if source.tls != NULL or sink.tls != NULL:
        return SP_NO_PIPE       # what the kernel has is not what is meant
    for _k in range(READS_PER_TURN):
        if pipe[0] != NULL:
            state = drain(w, sink, pipe[0], moved)
            if state != SP_DONE:
                return state
        if left[0] == 0:
            splice_release(w, pipe)
            return SP_DONE
        if not source.s.io & (IO_IN | IO_RDHUP):
            splice_release(w, pipe)
            return SP_SOURCE_DRY
        if pipe[0] == NULL:
            pipe[0] = pipe_take(&w.pipes)
            if pipe[0] == NULL:
                w.counters.limits[LIM_PIPES] += 1
                return SP_NO_PIPE
        n = pipe_fill(pipe[0], source.s.fd, left[0])
        if n == -EAGAIN:
            source.s.io &= ~IO_IN
            splice_release(w, pipe)
            return SP_SOURCE_DRY
        if n <= 0:
            splice_release(w, pipe)
            return SP_END if n == 0 else SP_SOURCE_ERROR
        left[0] -= <uint64_t>n
    state = drain(w, sink, pipe[0], moved)
    if state == SP_DONE:
        splice_release(w, pipe)
        return SP_BUDGET if left[0] else SP_DONE
    return state
