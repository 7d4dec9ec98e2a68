# Lines of a head that picohttpparser has split. It takes a bare LF for a line end and unfolds obs-fold into header
# lines without a name; here both are found from the slices it returns, without a second pass over the bytes.
from libc.stdint cimport uint32_t
from libc.string cimport memchr
from flyproxy._speedups.proto.pico cimport phr_header


# A head can only become complete, or wrong in a new way that must be told, with the end of a line. Parsing again at
# line ends alone bounds the work for a client that sends single bytes: the number of lines is limited.
cdef int lines_nothing_new(const char *buf, uint32_t n, uint32_t scanned) noexcept nogil:
    return 0 < scanned <= n and memchr(buf + scanned, c'\n', n - scanned) == NULL


# A name stands at the start of its line, so the two bytes before it end the line above. The last header line and the
# empty line end at `used`.
cdef int lines_strict(const char *buf, uint32_t used, const phr_header *raw, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if raw[i].name == NULL or (raw[i].name - 2)[0] != c'\r':
            return 0
    return used >= 4 and buf[used - 2] == c'\r' and buf[used - 4] == c'\r'
