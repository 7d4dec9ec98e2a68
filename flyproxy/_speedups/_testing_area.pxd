"""Memory for codecs under test: areas of AREA bytes whose next page faults on any access. For test doors only."""

from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect

cdef enum:
    AREA_PAGE = 4096
    AREA = 1 << 21              # bytes of input or output at most


cdef inline char *area_end() except NULL:
    """A new area, named by its end: there the unmapped page begins."""
    cdef void *p = mmap(NULL, AREA + AREA_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if p == MAP_FAILED or mprotect(<char *>p + AREA, AREA_PAGE, PROT_NONE) != 0:
        raise MemoryError("mmap of a guarded test area failed")
    return <char *>p + AREA


cdef inline const char *area_put(char *end, bytes data) except NULL:
    """A copy of `data` that ends at the unmapped page."""
    if len(data) > AREA:
        raise ValueError(f"at most {AREA} bytes")
    memcpy(end - len(data), <const char *>data, len(data))
    return end - len(data)


cdef inline char *area_room(char *end, Py_ssize_t n) except NULL:
    """n bytes, all 0, before the unmapped page; no head holds a 0."""
    if not 0 <= n <= AREA:
        raise ValueError(f"0 to {AREA} bytes")
    memset(end - n, 0, n)
    return end - n
