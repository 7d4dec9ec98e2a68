"""The test door of HTTP/2: connections on bytes, with all that they borrow counted; its tables. For tests only."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from flyproxy._speedups._testing_hpack cimport place_fields
from flyproxy._speedups.mem.buf cimport Pool, pool_clear, pool_init
from flyproxy._speedups.mem.slab cimport Slab, slab_clear, slab_init
from flyproxy._speedups.proto.answer cimport error_code
from flyproxy._speedups.proto.hpack cimport HpackEntry, HpackTable
from flyproxy._speedups.proto.http1 cimport (
    HEADERS_CAP, M_HEAD, RQ_TE_TRAILERS, RQ_UPGRADE, Header, RequestHead, ResponseHead, Slice,
)
from flyproxy._speedups.proto.http2 cimport *
from flyproxy._speedups.proto.http2_budget cimport budget_rules
from flyproxy._speedups.proto.http2_sched cimport (
    Sched, SchedNode, sched_next, sched_ready, sched_sent, sched_stalled,
)
from flyproxy._speedups.proto.http2_states cimport stream_steps
from flyproxy._speedups.proto.http2_window cimport (
    Receiving, receiving_drained, receiving_grow, receiving_init, receiving_take, window_add,
)

cdef enum:
    OUT = 1 << 20
    ARENA = 1 << 21

EVENTS = (
    "none", "blocked", "settings", "acknowledged", "request", "response", "trailers", "data", "reset", "window", "pong",
    "goaway", "error",
)
STATES = ("idle", "open", "half-local", "half-remote", "closed", "reset")
INPUTS = (
    "headers", "headers-end", "data", "data-end", "rst", "window", "out-headers", "out-headers-end", "out-data",
    "out-data-end", "out-rst",
)
VERDICTS = ("ok", "ignore", "stream", "connection", "closed", "refused")
BUDGET_NAMES = ("reset", "own_reset", "ping", "settings", "empty_data", "window", "ignored")
REQUEST_FLAGS = ("keep_alive", "chunked", "expect", "upgrade", "te_trailers", "websocket", "idempotent")
RESPONSE_FLAGS = ("keep_alive", "chunked", "until_close", "no_body", "switched")

cdef RequestHead request_head       # one at a time: these functions hold the GIL
cdef ResponseHead response_head
cdef Header[HEADERS_CAP] decoded
cdef char *arena = <char *>malloc(ARENA)


cdef list kept(const Header *fields, uint32_t n):
    return [(fields[i].name[:fields[i].name_n], fields[i].value[:fields[i].value_n]) for i in range(n)
            if not fields[i].drop]


cdef set names_of(uint32_t flags, tuple names):
    return {name for bit, name in enumerate(names) if flags >> bit & 1}


cdef Slice slice_of(bytes text):
    cdef Slice s
    s.p = text
    s.n = <uint32_t>len(text)
    return s


def sizes():
    """sizeof of what a connection is made of, bytes."""
    return {
        "connection": sizeof(Http2), "stream": sizeof(H2Stream), "table": sizeof(HpackTable),
        "entry": sizeof(HpackEntry), "config": sizeof(H2Config),
    }


def budgets():
    """name: (size of the bucket, tokens per second)."""
    return {name: (budget_rules[i].size, budget_rules[i].per_second) for i, name in enumerate(BUDGET_NAMES)}


def states():
    """(state, input): next state, or "!" and the verdict."""
    table = {}
    for s, state in enumerate(STATES):
        for i, step in enumerate(INPUTS):
            entry = stream_steps[s][i]
            table[state, step] = "!" + VERDICTS[entry >> 4] if entry >> 4 else STATES[entry & 15]
    return table


cdef class Window:
    """The receiving side of a window."""
    cdef Receiving w

    def __cinit__(self, uint32_t target):
        receiving_init(&self.w, target)

    def take(self, uint32_t n):
        return bool(receiving_take(&self.w, n))

    def drained(self, uint32_t n):
        return receiving_drained(&self.w, n)

    def grow(self, uint32_t target):
        return receiving_grow(&self.w, target)

    @property
    def left(self):
        return self.w.left

    @property
    def owed(self):
        return self.w.owed


def window_after(int32_t left, int64_t delta):
    """The sender's window after a WINDOW_UPDATE; None when it would be too large."""
    return left if window_add(&left, delta) else None


cdef class Ring:
    """The frame scheduler over `n` numbered nodes."""
    cdef Sched sched
    cdef SchedNode *nodes
    cdef uint32_t n

    def __cinit__(self, uint32_t n, uint32_t quantum):
        self.n = n
        self.nodes = <SchedNode *>malloc(n * sizeof(SchedNode))
        memset(self.nodes, 0, n * sizeof(SchedNode))
        memset(&self.sched, 0, sizeof(Sched))
        self.sched.quantum = quantum

    def __dealloc__(self):
        free(self.nodes)

    def ready(self, uint32_t i):
        sched_ready(&self.sched, &self.nodes[i])

    def stalled(self, uint32_t i):
        sched_stalled(&self.sched, &self.nodes[i])

    def next(self):
        """(node, room) or None."""
        cdef uint32_t room = 0
        cdef SchedNode *node = sched_next(&self.sched, &room)
        return None if node == NULL else (<uint32_t>(node - self.nodes), room)

    def sent(self, uint32_t i, uint32_t n):
        sched_sent(&self.sched, &self.nodes[i], n)


cdef class Connection:
    """One side of a connection. Events are (type, dict); a stream is named by its id."""
    cdef Http2 c
    cdef H2Config config
    cdef H2Io io
    cdef Pool pool
    cdef Slab slab
    cdef bytes via
    cdef bytearray held
    cdef public object now_ms

    def __cinit__(
        self, bint server, *, bint trusted=False, bint connect_protocol=True, bint huffman=False, uint32_t streams=100,
        uint32_t stream_window=65535, uint32_t connection_window=0x7FFFFFFF, uint32_t list_max=65536,
        uint32_t headers=128, uint32_t target=16384, uint32_t decoder_table=4096, uint32_t encoder_table=0,
    ):
        self.via = b"flyproxy"
        self.held = bytearray()
        self.now_ms = 1000
        pool_init(&self.pool, 1 << 20)
        slab_init(&self.slab, sizeof(H2Stream))
        self.config.server = server
        self.config.trusted = trusted
        self.config.connect_protocol = connect_protocol
        self.config.huffman = huffman
        self.config.streams = streams
        self.config.stream_window = stream_window
        self.config.connection_window = connection_window
        self.config.list_max = list_max
        self.config.headers = headers
        self.config.target = target
        self.config.decoder_table = <unsigned short>decoder_table
        self.config.encoder_table = <unsigned short>encoder_table
        self.config.via = slice_of(self.via)
        self.io.out = <char *>malloc(OUT)
        self.io.out_cap = OUT
        self.io.arena = arena
        self.io.arena_cap = ARENA
        self.io.fields = decoded
        self.io.request = &request_head
        self.io.response = &response_head
        http2_init(&self.c, &self.config, &self.pool, &self.slab, 1000)

    def __dealloc__(self):
        http2_clear(&self.c)
        slab_clear(&self.slab)
        pool_clear(&self.pool)
        free(self.io.out)

    cdef H2Stream *stream(self, uint32_t number) except NULL:
        cdef H2Stream *found = stream_find(&self.c, number)
        if found == NULL:
            raise KeyError(f"no stream {number}")
        return found

    cdef dict event_of(self, const H2Event *ev):
        found = {"stream": ev.stream.id if ev.stream != NULL else 0}
        if ev.type in (EV_REQUEST, EV_RESPONSE, EV_TRAILERS, EV_DATA):
            found["end"] = bool(ev.end)
        if ev.type == EV_REQUEST:
            found |= self.request_of(ev)
        elif ev.type == EV_RESPONSE:
            found |= {
                "status": response_head.status, "headers": kept(response_head.headers, response_head.nheaders),
                "content_length": response_head.content_length, "proxy_error": bool(response_head.proxy_error),
                "flags": names_of(response_head.flags, RESPONSE_FLAGS),
            }
        elif ev.type == EV_TRAILERS:
            found["headers"] = kept(decoded, ev.nfields)
        elif ev.type == EV_DATA or ev.type == EV_PONG:
            found["data"] = ev.data.p[:ev.data.n] if ev.data.n else b""
            found["window"] = ev.window
        elif ev.type in (EV_RESET, EV_GOAWAY, EV_ERROR):
            found |= {"code": ev.code, "by_us": bool(ev.by_us), "retry": bool(ev.retry)}
        return found

    cdef dict request_of(self, const H2Event *ev):
        if ev.error:
            return {"error": error_code(ev.error).decode()}
        cdef RequestHead *h = &request_head
        return {
            "error": None, "method": h.method_text.p[:h.method_text.n], "target": h.target.p[:h.target.n],
            "host": h.host[:h.host_n], "port": h.host_port, "content_length": h.content_length,
            "flags": names_of(h.flags, REQUEST_FLAGS), "headers": kept(h.headers, h.nheaders), "own_via": h.own_via,
            "upgrade": h.upgrade.p[:h.upgrade.n] if h.flags & RQ_UPGRADE else None,
        }

    def start(self):
        http2_start(&self.c, &self.io)

    def room(self, uint32_t cap):
        """Lets the output buffer look smaller."""
        self.io.out_cap = cap

    def receive(self, bytes data):
        """All events that these bytes make, with those held back before. The bytes stand in a block of their size."""
        cdef H2Event ev
        cdef int64_t used
        cdef uint32_t n, at = 0
        cdef char *p
        self.held += data
        waiting = bytes(self.held)
        n = <uint32_t>len(waiting)
        p = <char *>malloc(n or 1)
        memcpy(p, <const char *>waiting, n)
        self.io.now_ms = self.now_ms
        events = []
        try:
            while True:
                used = http2_read(&self.c, p + at, n - at, &self.io, &ev)
                at += <uint32_t>used
                if ev.type == EV_NONE:
                    return events
                events.append((EVENTS[ev.type], self.event_of(&ev)))
                if ev.type == EV_BLOCKED or ev.type == EV_ERROR:
                    return events
        finally:
            del self.held[:at]
            free(p)

    def count(self, bytes data):
        """As receive, without Python for each event: (events, bytes used); streams that end are released."""
        cdef H2Event ev
        cdef const char *p = data
        cdef uint32_t n = <uint32_t>len(data), at = 0, events = 0
        with nogil:
            while True:
                at += <uint32_t>http2_read(&self.c, p + at, n - at, &self.io, &ev)
                if self.io.out_n > 65536:
                    self.io.out_n = 0
                if ev.type == EV_NONE or ev.type == EV_ERROR:
                    break
                events += 1
                if ev.end and ev.stream != NULL:
                    http2_release(&self.c, ev.stream)
        return events, at

    def take(self):
        """What there is to send; the buffer is empty then."""
        data = self.io.out[:self.io.out_n]
        self.io.out_n = 0
        return data

    def request(self, headers=(), *, bytes method=b"GET", bytes target=b"/", bytes host=b"a.test", int port=0,
                int64_t content_length=-1, bytes upgrade=None, bint https=True, bint end=True, bint te=False, extra=()):
        """The stream's id; None when it cannot be opened now."""
        cdef RequestHead h
        cdef Header[HEADERS_CAP] more
        cdef H2Stream *stream
        memset(&h, 0, sizeof(RequestHead))
        h.method_text = slice_of(method)
        h.method = M_HEAD if method == b"HEAD" else 0
        h.target = slice_of(target)
        memcpy(h.host, <const char *>host, len(host))
        h.host_n = <uint8_t>len(host)
        h.host_port = <unsigned short>port
        h.content_length = content_length
        h.flags = RQ_TE_TRAILERS if te else 0
        if upgrade is not None:
            h.upgrade = slice_of(upgrade)
            h.flags |= RQ_UPGRADE
        plain = [(name, value, 0) for name, value in headers]
        added = [(name, value, 0) for name, value in extra]
        h.nheaders = place_fields(plain, h.headers)
        stream = http2_request(&self.c, &h, https, more, place_fields(added, more), end, &self.io)
        return stream.id if stream != NULL else None

    def response(self, uint32_t stream, int status=200, headers=(), *, int64_t content_length=-1, bint end=False):
        cdef ResponseHead h
        memset(&h, 0, sizeof(ResponseHead))
        h.status = <unsigned short>status
        h.content_length = content_length
        plain = [(name, value, 0) for name, value in headers]
        h.nheaders = place_fields(plain, h.headers)
        return bool(http2_response(&self.c, self.stream(stream), &h, NULL, 0, end, &self.io))

    def trailers(self, uint32_t stream, list headers):
        cdef Header[HEADERS_CAP] placed
        plain = [(name, value, 0) for name, value in headers]
        return bool(http2_trailers(&self.c, self.stream(stream), placed, place_fields(plain, placed), &self.io))

    def data(self, uint32_t stream, bytes data, bint end=False):
        """False when the windows, the state of the stream or the room left do not allow it."""
        if self.io.out_cap - self.io.out_n < len(data) + 9:
            return False
        if not http2_data(&self.c, self.stream(stream), <uint32_t>len(data), end, &self.io):
            return False
        memcpy(self.io.out + self.io.out_n, <const char *>data, len(data))
        self.io.out_n += <uint32_t>len(data)
        return True

    def sendable(self, uint32_t stream):
        return http2_sendable(&self.c, self.stream(stream))

    def drained(self, uint32_t stream, uint32_t n):
        return bool(http2_drained(&self.c, self.stream(stream), n, &self.io))

    def grow(self, uint32_t stream, uint32_t target):
        return bool(http2_grow(&self.c, self.stream(stream), target, &self.io))

    def reset(self, uint32_t stream, uint32_t code=8):
        return bool(http2_reset(&self.c, self.stream(stream), code, &self.io))

    def release(self, uint32_t stream):
        http2_release(&self.c, self.stream(stream))

    def ready(self, uint32_t stream):
        http2_ready(&self.c, self.stream(stream))

    def stalled(self, uint32_t stream):
        http2_stalled(&self.c, self.stream(stream))

    def next(self):
        """(stream, bytes that it may send) or None."""
        cdef uint32_t room = 0
        cdef H2Stream *stream = http2_next(&self.c, &room)
        return (stream.id, room) if stream != NULL else None

    def ping(self, bytes data):
        return bool(http2_ping(&self.c, data, &self.io))

    def drain(self):
        return bool(http2_drain(&self.c, &self.io))

    def drain_end(self):
        return bool(http2_drain_end(&self.c, &self.io))

    def fail(self, uint32_t code):
        cdef H2Event ev
        http2_fail(&self.c, code, &self.io, &ev)

    @property
    def state(self):
        """What a test may want to know of the connection."""
        return {
            "streams": self.c.count, "draining": self.c.draining, "failed": bool(self.c.failed),
            "send_left": self.c.send_left, "pool": self.pool.used, "slab": self.slab.used,
            "held": len(self.held), "encoder": self.c.encoder.size, "decoder": self.c.decoder.size,
        }
