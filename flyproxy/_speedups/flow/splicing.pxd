# Bytes from one socket to another through a pipe. Returns say why it stopped.
from libc.stdint cimport uint64_t
from flyproxy._speedups.flow.worker cimport Conn, Worker
from flyproxy._speedups.net.pipes cimport Pipe

cdef enum Spliced:
    SP_SOURCE_DRY = 0           # nothing to read now
    SP_SINK_FULL                # bytes wait in the pipe for the sink to take them
    SP_DONE                     # *left is 0 and everything is out
    SP_BUDGET                   # call again in the next turn
    SP_END                      # the source's end of stream; everything before it is out
    SP_NO_PIPE                  # copy instead
    SP_SOURCE_ERROR
    SP_SINK_ERROR

# Moves at most *left bytes; *pipe is taken when needed and given back when empty; *moved counts bytes that left the
# pipe.
cdef int splice_through(
    Worker *w, Conn *source, Conn *sink, Pipe **pipe, uint64_t *left, uint64_t *moved
) noexcept nogil
cdef void splice_release(Worker *w, Pipe **pipe) noexcept nogil
