# The structs of an HTTP/2 connection. Types only; who does what with them is in http2.pxd.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.mem.buf cimport Buf, Pool
from flyproxy._speedups.mem.slab cimport Slab
from flyproxy._speedups.proto.head cimport HeadLimits, Header, RequestHead, ResponseHead, Slice
from flyproxy._speedups.proto.hpack cimport HpackTable
from flyproxy._speedups.proto.http2_budget cimport Budgets
from flyproxy._speedups.proto.http2_sched cimport Sched, SchedNode
from flyproxy._speedups.proto.http2_window cimport Receiving

cdef enum H2Limit:              # of the codec itself; those of an operator are in H2Config
    H2_FRAME_MAX = 16384        # payload that we accept: the default of SETTINGS_MAX_FRAME_SIZE
    H2_FRAME_TRUSTED = 65536    # and from a trusted peer, which is told so: a read's worth of DATA, a whole block
    H2_BLOCK_MAX = 65536        # bytes of a field block before decoding, all its frames together
    H2_CONTINUATIONS = 16       # CONTINUATION frames of one block (CVE-2024-27316)
    H2_CONTROL_ROOM = 128       # free bytes of H2Io.out without which http2_read reads nothing
    H2_RESETS_KNOWN = 16        # the latest streams reset by us that are known one by one
    H2_FRAME_HEAD = 9
    H2_ARENA = 262144           # room in the arena beside 2 * list_max: four times H2_BLOCK_MAX
    H2_INPUT_MAX = 66048        # bytes that a caller must be able to hold: a whole block with its frames

cdef enum H2Code:               # RFC 9113 7
    NO_ERROR = 0
    PROTOCOL_ERROR
    INTERNAL_ERROR
    FLOW_CONTROL_ERROR
    SETTINGS_TIMEOUT
    STREAM_CLOSED
    FRAME_SIZE_ERROR
    REFUSED_STREAM
    CANCEL
    COMPRESSION_ERROR
    CONNECT_ERROR
    ENHANCE_YOUR_CALM
    INADEQUATE_SECURITY
    HTTP_1_1_REQUIRED

cdef enum H2EventType:
    EV_NONE = 0                 # more bytes are needed
    EV_BLOCKED                  # io.out has less than H2_CONTROL_ROOM left: write it, then read again
    EV_SETTINGS                 # the peer's settings changed
    EV_ACKNOWLEDGED             # the peer acknowledged ours
    EV_REQUEST                  # io.request; `error` says what to answer instead, 0: nothing is wrong
    EV_RESPONSE                 # io.response: 1xx or final
    EV_TRAILERS                 # io.fields, nfields; those with `drop` are not passed on
    EV_DATA                     # data, good until the caller's buffer changes
    EV_RESET                    # the stream is over: code, by_us, retry
    EV_WINDOW                   # stream NULL: the connection's; more may be sent
    EV_PONG                     # data: the 8 bytes of our PING
    EV_GOAWAY                   # the peer opens no more; code
    EV_ERROR                    # connection error: GOAWAY is written, write it and close; code

cdef enum H2StreamFlag:
    SF_HEAD = 1                 # the request was HEAD: content-length is of no body
    SF_FINAL = 2                # the final response head has come
    SF_TUNNEL = 4               # extended CONNECT
    SF_ANNOUNCED = 8            # the caller knows the stream and will release it
    SF_SCHEDULED = 16

cdef struct H2Stream:
    SchedNode node              # first: a node is its stream
    H2Stream *next              # of the connection
    H2Stream *prev
    void *owner                 # the caller's
    int64_t expected            # bytes of DATA still to come by content-length; -1: not declared
    uint32_t id
    uint32_t index              # in the slab
    int32_t send_left           # window for our DATA
    Receiving receiving
    uint8_t state               # StreamState
    uint8_t flags               # H2StreamFlag

cdef struct H2Config:           # one per listener class; lives longer than its connections
    uint8_t server
    uint8_t trusted             # no abuse budgets; structural limits hold for all
    uint8_t connect_protocol    # server: extended CONNECT (RFC 8441) is offered
    uint8_t huffman             # encoder: shorter strings for more CPU
    uint16_t decoder_table      # bytes, SETTINGS_HEADER_TABLE_SIZE
    uint16_t encoder_table      # bytes at most, 0: static table only
    uint32_t streams            # peer's concurrent streams, those not yet released included
    uint32_t stream_window      # bytes, SETTINGS_INITIAL_WINDOW_SIZE
    uint32_t connection_window  # bytes; credited on receipt, so that no stalled stream exhausts it
    uint32_t list_max           # bytes of decoded fields, 32 for each: SETTINGS_MAX_HEADER_LIST_SIZE
    uint32_t headers            # fields of a block
    uint32_t target             # bytes of :path
    Slice via                   # our pseudonym

cdef struct H2Peer:             # the peer's settings
    uint32_t streams
    uint32_t stream_window
    uint32_t frame
    uint32_t list_max
    uint8_t connect_protocol

cdef struct H2Entry:            # of the map from id to stream; 0: free
    uint32_t id
    uint32_t index

cdef struct Http2:
    const H2Config *config
    Pool *pool
    Slab *slab                  # of H2Stream, shared by a worker's connections
    HpackTable decoder
    HpackTable encoder
    Buf map                     # H2Entry[], open addressing; empty without streams
    H2Stream *streams
    Sched sched
    Budgets budgets
    H2Peer peer
    Receiving receiving
    int32_t send_left
    uint32_t count              # streams in the map
    uint32_t peer_count         # of those, opened by the peer
    uint32_t last_peer          # highest id that the peer opened
    uint32_t last_ours
    uint32_t accept_max         # ids above are ignored: we sent GOAWAY with it
    uint32_t goaway_last        # the peer's GOAWAY: ours above were not processed
    uint32_t data_left          # bytes of the current DATA frame's content
    uint32_t skip               # bytes to be skipped: padding, unknown frames
    uint32_t data_id
    uint8_t data_end            # the current DATA frame has END_STREAM
    uint8_t preface             # bytes of the client's preface that have come
    uint8_t settled             # the first SETTINGS has come
    uint8_t unacked             # SETTINGS of ours not acknowledged
    uint8_t draining            # 0, 1: first GOAWAY sent, 2: second
    uint8_t failed
    uint8_t sweeping            # goaway_last has streams to give up
    uint8_t resets_at
    uint32_t forgotten          # ids up to here may have been reset by us
    uint32_t[H2_RESETS_KNOWN] resets

cdef struct H2Io:               # what a worker lends to a call; all of it may be shared by its connections
    char *out                   # frames are written here
    uint32_t out_n
    uint32_t out_cap
    char *arena                 # text of decoded fields: 2 * list_max + H2_ARENA bytes
    uint32_t arena_cap
    Header *fields              # HEADERS_CAP of them
    RequestHead *request
    ResponseHead *response
    uint64_t now_ms             # any monotonic clock

cdef struct H2Event:
    uint8_t type                # H2EventType
    uint8_t end                 # END_STREAM came with it
    uint8_t by_us               # EV_RESET: we found the peer in the wrong, and told it
    uint8_t retry               # EV_RESET: the peer did not process the request
    uint16_t error              # EV_REQUEST: ErrorCode
    uint16_t nfields
    uint32_t code               # H2Code
    uint32_t window             # EV_DATA: bytes to give to http2_drained once `data` is used
    H2Stream *stream
    Slice data
