"""The test door of the backhaul's codecs: hellos and heads on bytes, and a transport between two of our own sides.

Inputs and outputs end at an unmapped page. For tests only.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from flyproxy._speedups._testing_area cimport area_end, area_put
from flyproxy._speedups.mem.buf cimport Pool, pool_clear, pool_init
from flyproxy._speedups.mem.slab cimport Slab, slab_clear, slab_init
from flyproxy._speedups.proto.answer cimport error_by_code as c_error_by_code
from flyproxy._speedups.proto.hello cimport (
    HELLO_ANSWER, HELLO_KEY, HELLO_MAX, Hello, HelloAnswer, hello_answer_parse, hello_answer_write,
    hello_authentic as c_hello_authentic, hello_parse as c_hello_parse, hello_write as c_hello_write,
)
from flyproxy._speedups.proto.hpack cimport FF_NEVER
from flyproxy._speedups.proto.http1 cimport (
    HEADERS_CAP, RQ_CHUNKED, RQ_UPGRADE, HeadLimits, Header, RequestHead, ResponseEmit, ResponseHead, Slice,
    http1_emit_response, http1_parse_response,
)
from flyproxy._speedups.proto.http2 cimport *
from flyproxy._speedups.proto.names cimport header_kind
from flyproxy._speedups.proto.relay_head cimport (
    relay_field as c_relay_field, relay_parse as c_relay_parse, relay_request_text, relay_trailer_fields,
    relay_trailer_text,
)

cdef enum:
    PAGE = 4096
    OUT = 1 << 18
    ARENA = H2_ARENA + (1 << 18)

REQUEST_FLAGS = ("keep_alive", "chunked", "expect", "upgrade", "te_trailers", "websocket", "idempotent")
NUMBERS = (
    "kind", "hops", "dest_port", "service_port", "edge_port", "source_epoch", "dest_epoch", "time_ms", "nonce",
    "client_port", "local_port",
)

cdef RequestHead request_head, decoded_head     # one at a time: these functions hold the GIL
cdef ResponseHead response_head
cdef Header[HEADERS_CAP] fields
cdef char *arena = <char *>malloc(ARENA)


cdef char *input_end = area_end()
cdef char *output_end = area_end()


cdef const char *placed(bytes data) except NULL:
    return area_put(input_end, data)


cdef const uint8_t *key_of(bytes key) except NULL:
    if len(key) != HELLO_KEY:
        raise ValueError(f"key: {HELLO_KEY} bytes")
    return key


# -- hello

cdef uint8_t set_name(bytes name, char *out, uint32_t cap) except? 255:
    """Longer names than fit keep their length, so that the codec sees it."""
    if len(name) > 254:
        raise ValueError("at most 254 bytes")
    memcpy(out, <const char *>name, min(len(name), cap))
    return <uint8_t>len(name)


cdef int set_address(bytes address, uint8_t *out) except -1:
    if len(address) != 16:
        raise ValueError("an address has 16 bytes")
    memcpy(out, <const char *>address, 16)
    return 0


def hello_write(dict values, bytes key):
    """The header with the fields of struct Hello, absent ones zero; None when one of them does not fit."""
    cdef Hello h
    cdef char *out = output_end - HELLO_MAX
    cdef uint32_t n
    memset(&h, 0, sizeof(Hello))
    h.kind, h.hops = values["kind"], values["hops"]
    h.dest_port, h.service_port = values["dest_port"], values.get("service_port", 0)
    h.edge_port = values.get("edge_port", 0)
    h.source_epoch, h.dest_epoch = values["source_epoch"], values["dest_epoch"]
    h.time_ms, h.nonce = values["time_ms"], values["nonce"]
    h.client_port, h.local_port = values.get("client_port", 0), values.get("local_port", 0)
    set_address(values.get("client", bytes(16)), h.client)
    set_address(values.get("local", bytes(16)), h.local)
    h.source_n = set_name(values["source"], h.source, sizeof(h.source))
    h.dest_n = set_name(values["dest"], h.dest, sizeof(h.dest))
    h.app_n = set_name(values.get("app", b""), h.app, sizeof(h.app))
    h.machine_n = set_name(values.get("machine", b""), h.machine, sizeof(h.machine))
    h.request_id_n = set_name(values.get("request_id", b""), h.request_id, sizeof(h.request_id))
    n = c_hello_write(&h, key_of(key), <uint8_t *>out)
    return out[:n] if n else None


def hello_parse(bytes data):
    """(result, values): result as in hello.pxd, values a dict of all fields when it is positive, else None."""
    cdef Hello h
    cdef int64_t result = c_hello_parse(<const uint8_t *>placed(data), <uint32_t>len(data), &h)
    if result <= 0:
        return result, None
    numbers = (h.kind, h.hops, h.dest_port, h.service_port, h.edge_port, h.source_epoch, h.dest_epoch, h.time_ms,
               h.nonce, h.client_port, h.local_port)
    return result, dict(zip(NUMBERS, numbers)) | {
        "client": h.client[:16], "local": h.local[:16], "source": h.source[:h.source_n], "dest": h.dest[:h.dest_n],
        "app": h.app[:h.app_n], "machine": h.machine[:h.machine_n], "request_id": h.request_id[:h.request_id_n],
    }


def hello_authentic(bytes data, bytes key):
    """Whether the last 32 bytes sign the others."""
    return bool(c_hello_authentic(<const uint8_t *>placed(data), <uint32_t>len(data), key_of(key)))


def answer_write(uint8_t version, uint8_t status, uint16_t code, uint32_t epoch):
    """The 8 bytes of an answer."""
    cdef HelloAnswer a
    cdef char *out = output_end - HELLO_ANSWER
    a.version, a.status, a.code, a.epoch = version, status, code, epoch
    hello_answer_write(&a, <uint8_t *>out)
    return out[:HELLO_ANSWER]


def answer_parse(bytes data):
    """(version, status, code, epoch), or None when it is no answer of ours."""
    cdef HelloAnswer a
    if len(data) != HELLO_ANSWER:
        raise ValueError(f"{HELLO_ANSWER} bytes")
    if not hello_answer_parse(<const uint8_t *>placed(data), &a):
        return None
    return a.version, a.status, a.code, a.epoch


def error_by_code(bytes code):
    """Number of an error's code, 0 when there is none."""
    return c_error_by_code(placed(code), <uint32_t>len(code))


# -- heads

cdef list headers_of(const Header *headers, uint32_t n):
    return [
        (headers[i].name[:headers[i].name_n], headers[i].value[:headers[i].value_n],
         bool(headers[i].pad & FF_NEVER)) for i in range(n)
    ]


cdef uint32_t place_fields(list pairs) except 0xFFFFFFFF:
    """(name, value, drop) into `fields`; the bytes objects must live as long as they are used."""
    cdef uint32_t n = 0
    for name, value, drop in pairs:
        fields[n].name = name
        fields[n].name_n = <uint32_t>len(name)
        fields[n].value = value
        fields[n].value_n = <uint32_t>len(value)
        fields[n].kind = <uint16_t>header_kind(fields[n].name, fields[n].name_n)
        fields[n].drop = drop
        fields[n].pad = 0
        n += 1
    return n


def relay_parse(bytes data):
    """(used, head); the head None when nothing was used. Its headers are (name, value, never indexed)."""
    cdef RequestHead *h = &request_head
    cdef uint32_t used = c_relay_parse(placed(data), <uint32_t>len(data), h)
    if used == 0:
        return 0, None
    return used, {
        "method": h.method_text.p[:h.method_text.n], "target": h.target.p[:h.target.n], "host": h.host[:h.host_n],
        "port": h.host_port, "content_length": h.content_length,
        "flags": {name for bit, name in enumerate(REQUEST_FLAGS) if h.flags >> bit & 1},
        "upgrade": h.upgrade.p[:h.upgrade.n] if h.upgrade.p != NULL else None,
        "headers": headers_of(h.headers, h.nheaders),
    }


def relay_field(list pairs, bytes name):
    """Value of a field flyproxy-* among (name, value, drop), or None."""
    return control(fields, place_fields(pairs), name)


def trailer_fields(bytes text, uint32_t cap=HEADERS_CAP):
    """(name, value) of each line."""
    cdef uint32_t n = relay_trailer_fields(placed(text), <uint32_t>len(text), fields, cap)
    return [(name, value) for name, value, _ in headers_of(fields, n)]


def trailer_text(list pairs, cap=None):
    """Lines for (name, value, drop); the default room is what is promised to suffice."""
    cdef uint32_t n = place_fields(pairs), room
    room = sum(len(name) + len(value) + 4 for name, value, _ in pairs) if cap is None else cap
    cdef char *out = output_end - room
    return out[:relay_trailer_text(fields, n, out, room)]


cdef class Side:
    """One end of a transport: a connection with all that it borrows."""
    cdef Http2 c
    cdef H2Config config
    cdef H2Io io
    cdef Pool pool
    cdef Slab slab

    def __cinit__(self, bint server):
        pool_init(&self.pool, 1 << 20)
        slab_init(&self.slab, sizeof(H2Stream))
        memset(&self.config, 0, sizeof(H2Config))
        self.config.server = server
        self.config.trusted = self.config.connect_protocol = 1
        self.config.decoder_table = self.config.encoder_table = 4096
        self.config.streams = 100
        self.config.stream_window = self.config.connection_window = 65535
        self.config.list_max = 1 << 16
        self.config.headers = HEADERS_CAP
        self.config.target = 1 << 14
        self.config.via.p = b"flyproxy"
        self.config.via.n = 8
        memset(&self.io, 0, sizeof(H2Io))
        self.io.out = <char *>malloc(OUT)
        self.io.out_cap = OUT
        self.io.arena, self.io.arena_cap = arena, ARENA
        self.io.fields, self.io.request, self.io.response = fields, &decoded_head, &response_head
        http2_init(&self.c, &self.config, &self.pool, &self.slab, 0)
        http2_start(&self.c, &self.io)

    def __dealloc__(self):
        http2_clear(&self.c)
        slab_clear(&self.slab)
        pool_clear(&self.pool)
        free(self.io.out)


cdef class Transport:
    """An edge and a worker host, joined; their field tables live as long as it does."""
    cdef Side edge
    cdef Side host

    def __cinit__(self):
        self.edge, self.host = Side(False), Side(True)
        self.flow(self.host, self.edge)
        self.flow(self.edge, self.host)

    cdef H2Event flow(self, Side source, Side target) except *:
        """Everything that `source` has to say is read; the last head or trailers among it."""
        cdef H2Event found, ev
        cdef uint32_t at = 0
        memset(&found, 0, sizeof(H2Event))
        while True:
            at += <uint32_t>http2_read(&target.c, source.io.out + at, source.io.out_n - at, &target.io, &ev)
            if ev.type == EV_NONE:
                break
            if ev.type == EV_ERROR or ev.type == EV_RESET or ev.type == EV_BLOCKED or ev.error:
                raise ValueError(f"event {ev.type}, code {ev.code}, error {ev.error}")
            if ev.type == EV_REQUEST or ev.type == EV_RESPONSE or ev.type == EV_TRAILERS:
                found = ev
        source.io.out_n = 0
        return found

    cdef H2Stream *open(self, bytes head, list extra) except NULL:
        cdef H2Stream *stream
        if c_relay_parse(placed(head), <uint32_t>len(head), &request_head) == 0:
            raise ValueError("no such head")
        body = request_head.flags & RQ_CHUNKED or request_head.content_length > 0
        stream = http2_request(&self.edge.c, &request_head, True, fields, place_fields(extra), not body, &self.edge.io)
        if stream == NULL:
            raise ValueError("the stream cannot be opened")
        return stream

    def fits(self, bytes head):
        """Whether the head may be sent at all."""
        cdef RequestHead *h = &request_head
        if c_relay_parse(placed(head), <uint32_t>len(head), h) == 0:
            raise ValueError("no such head")
        return bool(http2_fits(&self.edge.c, h.target.n, h.headers, h.nheaders, NULL, 0))

    def carry(self, bytes head, extra=(), cap=None):
        """The head as the machine gets it, or None when it does not fit into `cap` bytes; the names that arrived; and
        the values of those `extra` fields, (name, value), that begin with flyproxy-."""
        cdef H2Stream *ours
        cdef H2Event ev
        cdef uint32_t n, room
        cdef char *out
        ours = self.open(head, [(name, value, False) for name, value in extra])
        ev = self.flow(self.edge, self.host)
        arrived = [name for name, _, _ in headers_of(decoded_head.headers, decoded_head.nheaders)]
        values = {name: control(decoded_head.headers, decoded_head.nheaders, name) for name, _ in extra
                  if name.startswith(b"flyproxy-")}
        room = 2 * len(head) + 512 if cap is None else cap
        out = output_end - room
        n = relay_request_text(&decoded_head, out, room)
        http2_release(&self.edge.c, ours)
        http2_release(&self.host.c, ev.stream)
        return out[:n] if n else None, arrived, values

    def answer(self, bytes request, list heads, *, extra=(), trailers=None, forged=()):
        """What becomes of a machine's answer, interim heads first, its trailers as text; `extra` fields (name, value)
        are the host's own, `forged` ones its trailers'. A dict: the texts for the client, `error` (value of
        flyproxy-error in the last head), `trailers` (text)."""
        cdef H2Stream *ours = self.open(request, [])
        cdef H2Event ev = self.flow(self.edge, self.host)
        cdef H2Stream *theirs = ev.stream
        cdef uint8_t upgrade = (request_head.flags & RQ_UPGRADE) != 0
        cdef uint32_t n
        cdef char *out = output_end - PAGE
        found = {"texts": [], "trailers": None}
        added = [(name, value, False) for name, value in extra]
        for head in heads:
            read_answer(head, upgrade)
            if not http2_response(&self.host.c, theirs, &response_head, fields, place_fields(added), False,
                                  &self.host.io):
                raise ValueError("the answer cannot be sent")
            self.flow(self.host, self.edge)
            found["error"] = control(response_head.headers, response_head.nheaders, b"flyproxy-error")
            found["ours"] = bool(response_head.proxy_error)
            found["texts"].append(client_text())
        if trailers is not None:
            n = relay_trailer_fields(placed(trailers), <uint32_t>len(trailers), fields, HEADERS_CAP)
            n = place_fields([(name, value, False) for name, value, _ in headers_of(fields, n)]
                             + [(name, value, False) for name, value in forged])
            if not http2_trailers(&self.host.c, theirs, fields, n, &self.host.io):
                raise ValueError("the trailers cannot be sent")
            ev = self.flow(self.host, self.edge)
            found["trailers"] = out[:relay_trailer_text(fields, ev.nfields, out, PAGE)]
        http2_release(&self.edge.c, ours)
        http2_release(&self.host.c, theirs)
        return found


cdef object control(const Header *headers, uint32_t n, bytes name):
    """Value of a field flyproxy-*, or None."""
    cdef bytes rest = name.removeprefix(b"flyproxy-")
    cdef Slice s = c_relay_field(headers, n, rest, <uint32_t>len(rest))
    return s.p[:s.n] if s.p != NULL else None


cdef int read_answer(bytes head, uint8_t upgrade) except -1:
    """A machine's head into `response_head`; 101 becomes 200, as on an extended CONNECT."""
    cdef HeadLimits limits
    limits.head, limits.headers = 1 << 16, 128
    limits.target = limits.trailers = limits.chunk_extension = 0
    if http1_parse_response(placed(head), <uint32_t>len(head), 0, &limits, 0, upgrade, &response_head) <= 0:
        raise ValueError("the answer does not parse")
    if response_head.status == 101:
        response_head.status = 200
    return 0


cdef bytes client_text():
    """`response_head` as an HTTP/1.1 client of the edge gets it."""
    cdef ResponseEmit emit
    cdef char *out = output_end - PAGE
    memset(&emit, 0, sizeof(ResponseEmit))
    emit.request_id.p, emit.request_id.n = b"01J-ams", 7
    emit.server.p = emit.via.p = b"flyproxy"
    emit.server.n = emit.via.n = 8
    emit.client_minor = 1
    return out[:http1_emit_response(&response_head, &emit, out, PAGE)]


# -- loops for benchmarks: no Python inside

cdef uint32_t loop_parse(const char *p, uint32_t n, uint32_t times) noexcept nogil:
    cdef uint32_t _turn, used = 0
    for _turn in range(times):
        used = c_relay_parse(p, n, &request_head)
    return used


cdef uint32_t loop_text(char *out, uint32_t cap, uint32_t times) noexcept nogil:
    cdef uint32_t _turn, written = 0
    for _turn in range(times):
        written = relay_request_text(&decoded_head, out, cap)
    return written


cdef uint32_t loop_hello(const Hello *hello, const uint8_t *key, uint8_t *out, uint32_t times) noexcept nogil:
    cdef Hello again
    cdef uint32_t _turn, n = 0
    for _turn in range(times):
        n = c_hello_write(hello, key, out)
        if c_hello_parse(out, n, &again) != n or not c_hello_authentic(out, n, key):
            return 0
    return n


def loop(str what, bytes data, uint32_t times):
    """Does `what` `times` times on the head or the hello in `data`: "parse" (relay_parse), "text" (relay_request_text
    of the head after a transport), "hello" (write, parse and check the signature); the bytes of the last one."""
    cdef Hello hello
    cdef uint8_t[HELLO_MAX] out
    cdef const uint8_t *key = key_of(b"k" * HELLO_KEY)
    if what == "parse":
        return loop_parse(placed(data), <uint32_t>len(data), times)
    if what == "text":
        Transport().carry(data)
        return loop_text(output_end - 2 * len(data) - 512, 2 * <uint32_t>len(data) + 512, times)
    if what == "hello":
        if c_hello_parse(<const uint8_t *>placed(data), <uint32_t>len(data), &hello) <= 0:
            raise ValueError("no hello")
        return loop_hello(&hello, key, out, times)
    raise ValueError(f"unknown loop {what!r}")
