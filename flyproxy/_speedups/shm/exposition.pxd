# The per-app metrics page, written whole by compiled code: names, labels and types of the fly_* families.
from libc.stdint cimport uint32_t
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.text cimport Text

# Appends the page to `out`; -1: the system gave no memory. `region` and `host` (zero-terminated) are this proxy's:
# labels of the edge families, and of the machine families where a machine's record names none.
cdef int exposition_write(Shm *shm, const char *region, const char *host, Text *out) noexcept nogil
