# Writing: pieces are gathered in the worker's outbox and go out in one call; what the kernel does not take is kept in
# Conn.out.
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Conn, Worker

cdef void outbox_clear(Worker *w) noexcept nogil
cdef int outbox_add(Worker *w, const char *p, uint32_t n) noexcept nogil           # 0: full, flush first
cdef int outbox_add_chunk_head(Worker *w, uint32_t n) noexcept nogil
# 0 written or kept; or a positive errno: the connection is broken (ENOMEM: no buffer).
cdef int outbox_send(Worker *w, Conn *to) noexcept nogil
cdef int conn_flush(Worker *w, Conn *c) noexcept nogil      # the same for what was kept
# What is written to a client from now on leaves in one call, when the transport that it comes from has been read.
cdef void conn_cork(Worker *w, Conn *c) noexcept nogil
