"""Test doors of mem/ and net/: buffers, slabs, sockets; timers and lanes under a clock that the test moves."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from flyproxy._speedups.mem.buf cimport Buf, Pool, buf_append, buf_consume, buf_give, pool_clear, pool_init
from flyproxy._speedups.mem.slab cimport Slab, slab_clear, slab_give, slab_init, slab_take
from flyproxy._speedups.net.reactor cimport (
    Reactor, Source, reactor_add, reactor_clear, reactor_close, reactor_init, reactor_queue, reactor_serve,
    reactor_timers, timer_set,
)
from flyproxy._speedups.net.sockets cimport iovec, sock_writev


cdef class Buffers:
    """One pool and numbered buffers in it."""

    cdef Pool pool
    cdef Buf bufs[16]

    def __cinit__(self, uint64_t held_max):
        pool_init(&self.pool, held_max)

    def __dealloc__(self):
        cdef int k
        for k in range(16):
            buf_give(&self.pool, &self.bufs[k])
        pool_clear(&self.pool)

    def append(self, int k, bytes data) -> bool:
        return bool(buf_append(&self.pool, &self.bufs[k], <const char *>data, <uint32_t>len(data)))

    def consume(self, int k, uint32_t n) -> None:
        buf_consume(&self.pool, &self.bufs[k], n)

    def content(self, int k) -> bytes:
        if self.bufs[k].data == NULL:
            return b""
        return self.bufs[k].data[self.bufs[k].start:self.bufs[k].end]

    @property
    def used(self) -> int:
        return self.pool.used

    @property
    def held(self) -> int:
        return self.pool.held


cdef class Table:
    """A slab of 64-byte elements."""

    cdef Slab slab

    def __cinit__(self):
        if not slab_init(&self.slab, 64):
            raise MemoryError

    def __dealloc__(self):
        slab_clear(&self.slab)

    def take(self) -> int:
        return slab_take(&self.slab)

    def give(self, uint32_t index) -> None:
        slab_give(&self.slab, index)

    @property
    def used(self) -> int:
        return self.slab.used


def writev(int fd, list parts):
    """Sends the parts as one message; bytes sent, or a negative errno."""
    cdef iovec vector[8]
    cdef uint32_t n = 0
    cdef bytes part
    for part in parts:
        vector[n].iov_base = <char *>part
        vector[n].iov_len = <size_t>len(part)
        n += 1
    return sock_writev(fd, vector, <int>n)


cdef struct Log:
    uint32_t n
    uint32_t index[4096]
    uint64_t at[4096]
    uint32_t again


cdef int note_event(void *owner, Source *source) noexcept nogil:
    cdef Log *log = <Log *>owner
    log.index[log.n & 4095] = source.index
    log.n += 1
    if log.again:
        log.again -= 1
        return 1
    return 0


cdef void note_timeout(void *owner, Source *source) noexcept nogil:
    cdef Log *log = <Log *>owner
    log.index[log.n & 4095] = source.index
    log.n += 1


cdef class Loop:
    """A reactor without epoll events: the test queues sources and moves the clock."""

    cdef Reactor *reactor
    cdef Log *log
    cdef dict sources

    def __cinit__(self, uint32_t lanes):
        self.sources = {}
        self.log = <Log *>calloc(1, sizeof(Log))
        self.reactor = <Reactor *>calloc(1, sizeof(Reactor))
        if self.log == NULL or self.reactor == NULL or not reactor_init(self.reactor, sizeof(Source), lanes, self.log):
            raise MemoryError
        self.reactor.on_event[1] = note_event
        self.reactor.on_timeout[1] = note_timeout
        self.reactor.now_ms = 1_000_000
        self.reactor.wheel_tick = 1_000_000 // 16

    def __dealloc__(self):
        reactor_clear(self.reactor)
        free(self.reactor)
        free(self.log)

    cdef Source *_source(self, int index):
        return <Source *><size_t>self.sources[index]

    def add(self, uint32_t lane) -> int:
        """A source on a fresh eventfd."""
        cdef Source *s = reactor_add(self.reactor, os.eventfd(0), 1, 1)
        if s == NULL:
            raise MemoryError
        s.lane = lane
        self.sources[s.index] = <size_t>s
        return s.index

    def close(self, int index) -> None:
        reactor_close(self.reactor, self._source(index))

    def queue(self, int index) -> None:
        reactor_queue(self.reactor, self._source(index))

    def set_timer(self, int index, uint64_t deadline_ms) -> None:
        timer_set(self.reactor, self._source(index), deadline_ms)

    def serve(self, uint32_t again=0) -> list[int]:
        """Serves what is queued; the first ``again`` handlers ask to be called once more. The order of service."""
        self.log.n = 0
        self.log.again = again
        reactor_serve(self.reactor)
        return [self.log.index[k] for k in range(self.log.n)]

    def advance(self, uint64_t ms) -> list[int]:
        """Moves the clock; the sources whose deadline came."""
        self.log.n = 0
        self.reactor.now_ms += ms
        reactor_timers(self.reactor)
        return [self.log.index[k] for k in range(self.log.n)]

    @property
    def now_ms(self) -> int:
        return self.reactor.now_ms

    @property
    def alive(self) -> int:
        return self.reactor.sources.used
