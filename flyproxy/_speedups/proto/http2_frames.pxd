# Frames as bytes (RFC 9113 4.1, 6): heads read and small frames written. Nothing here looks at a connection.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

cdef enum FrameType:
    FT_DATA = 0
    FT_HEADERS
    FT_PRIORITY
    FT_RST_STREAM
    FT_SETTINGS
    FT_PUSH_PROMISE
    FT_PING
    FT_GOAWAY
    FT_WINDOW_UPDATE
    FT_CONTINUATION
    FRAME_TYPES

cdef enum FrameFlag:
    FF_END_STREAM = 1
    FF_ACK = 1
    FF_END_HEADERS = 4
    FF_PADDED = 8
    FF_PRIORITY = 32

cdef enum Setting:              # RFC 9113 6.5.2, RFC 8441 3
    SE_HEADER_TABLE_SIZE = 1
    SE_ENABLE_PUSH
    SE_MAX_CONCURRENT_STREAMS
    SE_INITIAL_WINDOW_SIZE
    SE_MAX_FRAME_SIZE
    SE_MAX_HEADER_LIST_SIZE
    SE_ENABLE_CONNECT_PROTOCOL = 8

cdef struct Frame:
    const uint8_t *payload      # of the bytes that have come
    uint32_t length             # of the payload
    uint32_t stream
    uint8_t type
    uint8_t flags

cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]

cdef inline char *put32(char *out, uint32_t value) noexcept nogil:
    out[0] = <char>(value >> 24)
    out[1] = <char>(value >> 16)
    out[2] = <char>(value >> 8)
    out[3] = <char>value
    return out + 4

# Nine bytes at p.
cdef inline Frame frame_head(const uint8_t *p) noexcept nogil:
    cdef Frame f
    f.length = <uint32_t>p[0] << 16 | <uint32_t>p[1] << 8 | p[2]
    f.type = p[3]
    f.flags = p[4]
    f.stream = get32(p + 5) & 0x7FFFFFFF
    f.payload = p + 9
    return f

cdef inline char *put_frame_head(char *out, uint32_t length, uint8_t type, uint8_t flags,
                                 uint32_t stream) noexcept nogil:
    put32(out, length << 8 | type)
    out[4] = <char>flags
    return put32(out + 5, stream)

cdef inline char *put_setting(char *out, uint16_t id, uint32_t value) noexcept nogil:
    out[0] = <char>(id >> 8)
    out[1] = <char>id
    return put32(out + 2, value)

cdef inline char *put_rst_stream(char *out, uint32_t stream, uint32_t code) noexcept nogil:
    return put32(put_frame_head(out, 4, FT_RST_STREAM, 0, stream), code)

cdef inline char *put_window_update(char *out, uint32_t stream, uint32_t increment) noexcept nogil:
    return put32(put_frame_head(out, 4, FT_WINDOW_UPDATE, 0, stream), increment)

cdef inline char *put_ping(char *out, uint8_t flags, const void *data) noexcept nogil:
    out = put_frame_head(out, 8, FT_PING, flags, 0)
    memcpy(out, data, 8)
    return out + 8

cdef inline char *put_goaway(char *out, uint32_t last, uint32_t code) noexcept nogil:
    return put32(put32(put_frame_head(out, 8, FT_GOAWAY, 0, 0), last), code)
