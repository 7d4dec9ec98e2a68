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
    F_HOST_UNREACHABLE          # the machine's host did not take the request, or not in time
    F_TRANSPORT_LOST            # the transport ended with the request on it
    F_NO_HTTP2                  # the machine does not speak HTTP/2
    F_COUNT

# 1: no byte of this attempt can have reached the app, for the VM's kernel has acknowledged none.
cdef int attempt_unseen(Exchange *x) noexcept nogil
# Closes the VM's connection, then tries again or answers the failure's error.
cdef void attempt_failed(Worker *w, Exchange *x, int failure) noexcept nogil
# 1: nobody else is left, so a machine whose host could not be reached may be tried once more.
cdef int attempt_forgiven(Exchange *x) noexcept nogil
# The machine's host says what went wrong (an ErrorCode), and whether the request can have reached the app.
cdef void attempt_refused(Worker *w, Exchange *x, int error, int unreached) noexcept nogil
