"""The access log. Lines are written here, whole, because only the engine has the facts; control just moves them on.

Everything that a stranger can choose (method, host, path) is escaped and capped, so a line stays one line and valid
JSON.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, strlen

from flyproxy._speedups.flow.worker cimport XF_RAW, Conn, Exchange, Worker
from flyproxy._speedups.proto.answer cimport error_code, error_status
from flyproxy._speedups.proto.http1 cimport Slice, put_decimal
from flyproxy._speedups.proto.proxy_protocol cimport put_address
from flyproxy._speedups.proto.text cimport plain, put as copy
from flyproxy._speedups.shm.counters cimport counters_app
from flyproxy._speedups.shm.logring cimport LOG_LINE_MAX, logring_put
from flyproxy._speedups.shm.table cimport TApp, TMachine, table_app, table_machine

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct tm:
        int tm_year, tm_mon, tm_mday, tm_hour, tm_min, tm_sec
    tm *gmtime_r(const time_t *when, tm *out)

cdef extern from *:
    """
    static const char FP_HEX_DIGITS[] = "0123456789abcdef";
    """
    const char *FP_HEX_DIGITS

cdef enum:
    TEXT_CAP = 512              # characters of one client-chosen field
    LINE_CAP = LOG_LINE_MAX - 8

cdef struct Line:
    uint32_t n
    char text[LOG_LINE_MAX]


# -- putting a line together

cdef inline void put(Line *line, const char *p, uint32_t n) noexcept nogil:
    if line.n + n <= LINE_CAP:
        copy(line.text + line.n, p, n)
        line.n += n


cdef inline void put_text(Line *line, const char *p) noexcept nogil:
    put(line, p, <uint32_t>strlen(p))


cdef inline void put_number(Line *line, const char *key, uint64_t value) noexcept nogil:
    put_text(line, key)
    if line.n + 20 <= LINE_CAP:
        line.n += put_decimal(line.text + line.n, value)


cdef char *escape(char *out, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t k
    cdef unsigned char byte
    for k in range(n):
        byte = <unsigned char>p[k]
        if byte < 0x20 or byte >= 0x7F or byte == 0x22 or byte == 0x5C:
            memcpy(out, b"\\u00", 4)
            out[4] = FP_HEX_DIGITS[byte >> 4]
            out[5] = FP_HEX_DIGITS[byte & 15]
            out += 6
        else:
            out[0] = <char>byte
            out += 1
    return out


cdef void put_escaped(Line *line, const char *p, uint32_t n) noexcept nogil:
    cdef char *out = line.text + line.n
    cdef uint32_t eight
    n = min(n, <uint32_t>TEXT_CAP)
    if line.n + 6 * n > LINE_CAP:
        return
    while n:
        eight = min(n, <uint32_t>8)
        out = copy(out, p, eight) if plain(p, eight) else escape(out, p, eight)
        p += eight
        n -= eight
    line.n = <uint32_t>(out - line.text)


cdef inline void put_string(Line *line, const char *key, const char *p, uint32_t n) noexcept nogil:
    if n:
        put_text(line, key)
        put_escaped(line, p, n)
        put(line, b'"', 1)


# -- the facts

cdef void put_two(char *out, int value) noexcept nogil:
    out[0] = <char>(48 + value // 10)
    out[1] = <char>(48 + value % 10)


cdef void refresh_time(Worker *w) noexcept nogil:
    cdef tm t
    cdef time_t seconds = <time_t>(w.reactor.wall_us // 1000000)
    if w.log_second == <uint64_t>seconds:
        return
    w.log_second = <uint64_t>seconds
    gmtime_r(&seconds, &t)
    put_decimal(w.log_time, t.tm_year + 1900)
    memcpy(w.log_time + 4, b"-00-00T00:00:00", 15)
    put_two(w.log_time + 5, t.tm_mon + 1)
    put_two(w.log_time + 8, t.tm_mday)
    put_two(w.log_time + 11, t.tm_hour)
    put_two(w.log_time + 14, t.tm_min)
    put_two(w.log_time + 17, t.tm_sec)


cdef void put_time(Worker *w, Line *line) noexcept nogil:
    cdef uint32_t ms = <uint32_t>(w.reactor.wall_us // 1000 % 1000)
    cdef char fraction[5]
    refresh_time(w)
    fraction[0] = b'.'
    fraction[1] = <char>(48 + ms // 100)
    put_two(fraction + 2, <int>(ms % 100))
    fraction[4] = b'Z'
    put(line, w.log_time, 19)
    put(line, fraction, 5)


cdef Slice slice_of(const char *p, uint32_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = n
    return s


cdef Slice host_of(const Exchange *x) noexcept nogil:
    # The head that we wrote has the host in its second line.
    cdef const char *p = x.head.data
    cdef uint32_t n = x.head.end
    cdef uint32_t skip = x.log_method_n + x.log_target_n + 18      # " " target " HTTP/1.1" CRLF "Host: "
    cdef const char *end
    if p == NULL or skip >= n or memcmp(p + skip - 6, b"Host: ", 6) != 0:
        return slice_of(NULL, 0)
    end = <const char *>memchr(p + skip, 13, n - skip)
    return slice_of(p + skip, <uint32_t>(end - p) - skip) if end != NULL else slice_of(NULL, 0)


cdef Slice app_of(Worker *w, const Exchange *x) noexcept nogil:
    cdef const TApp *app = table_app(&w.table, x.app, x.app_generation) if x.app_generation else NULL
    return slice_of(app.name, app.name_n) if app != NULL else slice_of(NULL, 0)


cdef Slice machine_of(Worker *w, const Exchange *x) noexcept nogil:
    cdef const TMachine *m = NULL
    if x.machine_generation:
        m = table_machine(&w.table, x.machine, x.machine_generation)
    return slice_of(m.id, m.id_n) if m != NULL else slice_of(NULL, 0)


# -- the two forms

cdef void put_client(Line *line, Conn *c, const char *before) noexcept nogil:
    put_text(line, before)
    if line.n + 46 <= LINE_CAP:
        line.n += put_address(c.peer.address, line.text + line.n)


cdef void write_json(Worker *w, Exchange *x, Line *line) noexcept nogil:
    cdef Slice app = app_of(w, x)
    cdef Slice machine = machine_of(w, x)
    cdef Slice host = host_of(x)
    cdef uint64_t us = w.reactor.now_us - x.start_us
    put_text(line, b'{"time":"')
    put_time(w, line)
    put_text(line, b'","event":"access"')
    put_string(line, b',"app":"', app.p, app.n)
    put_string(line, b',"machine":"', machine.p, machine.n)
    put_client(line, x.down, b',"client":"')
    put(line, b'"', 1)
    if x.flags & XF_RAW:
        put_text(line, b',"protocol":"tcp"')
    elif x.head.data != NULL:
        put_string(line, b',"method":"', x.head.data, x.log_method_n)
        put_string(line, b',"host":"', host.p, host.n)
        put_string(line, b',"path":"', x.head.data + x.log_method_n + 1, x.log_target_n)
    if x.status:
        put_number(line, b',"status":', x.status)
    put_number(line, b',"duration_us":', us)
    put_number(line, b',"bytes_in":', x.bytes_in)
    put_number(line, b',"bytes_out":', x.bytes_out)
    put_string(line, b',"request_id":"', x.request_id, x.request_id_n)
    if x.error:
        put_string(line, b',"code":"', error_code(x.error), 4)
    put(line, b"}", 1)


cdef void put_word(Line *line, Slice s) noexcept nogil:
    put(line, b" ", 1)
    if s.n:
        put_escaped(line, s.p, s.n)
    else:
        put(line, b"-", 1)


# time client app machine "METHOD HOST PATH" status duration_us bytes_in bytes_out request_id code
cdef void write_text(Worker *w, Exchange *x, Line *line) noexcept nogil:
    put_time(w, line)
    put_client(line, x.down, b" ")
    put_word(line, app_of(w, x))
    put_word(line, machine_of(w, x))
    put_text(line, b' "')
    if x.head.data != NULL:
        put_escaped(line, x.head.data, x.log_method_n)
        put_word(line, host_of(x))
        put_word(line, slice_of(x.head.data + x.log_method_n + 1, x.log_target_n))
    else:
        put_text(line, b"TCP" if x.flags & XF_RAW else b"-")
    put_number(line, b'" ', x.status)
    put_number(line, b" ", w.reactor.now_us - x.start_us)
    put_number(line, b" ", x.bytes_in)
    put_number(line, b" ", x.bytes_out)
    put_word(line, slice_of(x.request_id, x.request_id_n))
    put_word(line, slice_of(error_code(x.error), 4 if x.error else 0))


cdef void log_exchange(Worker *w, Exchange *x) noexcept nogil:
    cdef Line line
    line.n = 0
    if w.config.log_json:
        write_json(w, x, &line)
    else:
        write_text(w, x, &line)
    if not logring_put(&w.shm, line.text, line.n) and x.app_generation:
        counters_app(&w.shm, x.app, x.app_generation).log_dropped += 1


cdef void log_refused(Worker *w, Conn *c, int error, Slice request_id) noexcept nogil:
    cdef Line line
    line.n = 0
    if w.config.log_json:
        put_text(&line, b'{"time":"')
        put_time(w, &line)
        put_text(&line, b'","event":"refused"')
        put_client(&line, c, b',"client":"')
        put_number(&line, b'","status":', <uint64_t>error_status(error))
        put_string(&line, b',"request_id":"', request_id.p, request_id.n)
        put_string(&line, b',"code":"', error_code(error), 4)
        put(&line, b"}", 1)
    else:
        put_time(w, &line)
        put_client(&line, c, b" ")
        put_number(&line, b' - - "-" ', <uint64_t>error_status(error))
        put_text(&line, b" 0 0 0")
        put_word(&line, request_id)
        put_word(&line, slice_of(error_code(error), 4))
    logring_put(&w.shm, line.text, line.n)
