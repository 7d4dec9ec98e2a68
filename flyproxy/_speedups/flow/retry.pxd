# What happens after a failed attempt: a table of failures, each with its error, and whether another attempt is allowed.
from flyproxy._speedups.flow.worker cimport Exchange, Worker

cdef enum:                      # failures
    F_REFUSED = 0               # connection refused
    F_UNREACHABLE               # connect failed otherwise
    F_CONNECT_TIMEOUT
    F_STALE                     # a pooled connection ended before a byte of the answer
    F_RESET                     # a fresh connection was reset before the answer's head was whole
    F_CUT                       # a fresh connection ended before the answer's head was whole
    F_HEAD_TIMEOUT              # no answer in time
    F_COUNT

# 1: no byte of this attempt can have reached the app, for the VM's kernel has acknowledged none.
cdef int attempt_unseen(Exchange *x) noexcept nogil
# Closes the VM's connection, then tries again or answers the failure's error.
cdef void attempt_failed(Worker *w, Exchange *x, int failure) noexcept nogil
