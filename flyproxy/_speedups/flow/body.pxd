# Framing of one body on its way from one side to the other: what was received is cut into pieces for the outbox. No
# socket here.
from libc.stdint cimport int64_t, uint32_t
from flyproxy._speedups.flow.worker cimport Body, Worker
from flyproxy._speedups.proto.http1 cimport Header

cdef enum:
    BODY_MORE = 0
    BODY_DONE = 1
    BODY_FULL = 2               # the outbox is full: send it and call again with the rest

cdef void body_start(Body *b, int mode, int64_t length, int chunk) noexcept nogil
# Cuts [p, p+n) into outbox pieces; *used bytes belong to the body, *content of them are body bytes. BODY_* or the
# negated ErrorCode.
cdef int body_feed(Worker *w, Body *b, const char *p, uint32_t n, uint32_t *used, uint32_t *content) noexcept nogil
# The sender's end of stream: BODY_DONE if that completes the body (its last chunk is put into the outbox), else
# BODY_MORE: cut short.
cdef int body_end_of_stream(Worker *w, Body *b) noexcept nogil
# Trailers that came on a stream, to be sent with the body's end; longer than the limit `trailers`: they are dropped.
cdef void body_trailers(Worker *w, Body *b, const Header *fields, uint32_t n) noexcept nogil
cdef void body_clear(Worker *w, Body *b) noexcept nogil
