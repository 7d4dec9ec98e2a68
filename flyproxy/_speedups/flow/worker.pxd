# The structs that all of flow/ works on: one Worker per engine thread, a Conn per socket, an Exchange per request or
# relay, a Transport per HTTP/2 connection to another proxy. A stream of a transport is a Conn without a socket, so
# exchanges need not know what they run on. Ownership: a Conn belongs to the reactor's slab and dies at the end of the
# turn in which it is closed; an Exchange belongs to its client's Conn and is given back by exchange_finish. Pointers
# between them are good as long as both live; none crosses threads.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.mem.buf cimport Buf, Pool
from flyproxy._speedups.mem.slab cimport Slab
from flyproxy._speedups.net.pipes cimport Pipe, PipePool
from flyproxy._speedups.net.reactor cimport Reactor, Source
from flyproxy._speedups.net.sockets cimport Endpoint, iovec
from flyproxy._speedups.net.tls cimport Tls, TlsParty
from flyproxy._speedups.proto.chunked cimport Chunked
from flyproxy._speedups.proto.http1 cimport HeadLimits, RequestHead, ResponseHead, Slice
from flyproxy._speedups.proto.hello cimport HELLO_KEY
from flyproxy._speedups.proto.http2 cimport H2Config, H2Io, H2Stream, Http2
from flyproxy._speedups.route.choose cimport TRIED_MAX
from flyproxy._speedups.shm.counters cimport WorkerCounters
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.table cimport Table

cdef enum:
    SCRATCH = 64 << 10          # bytes of one read
    FRAMES_IN = 130 << 10       # one read behind the largest part of a frame that may wait (H2_INPUT_MAX)
    RENDER = 320 << 10          # heads and answers are written here; more than the largest head that is accepted
    IOVS = 96
    SIDE = 4096                 # chunk heads of one write
    READS_PER_TURN = 4          # a connection's read budget
    ACCEPTS_PER_TURN = 64
    SPLICE_MIN = 64 << 10       # bytes of body still to come at which splicing pays
    VIA_MAX = 8                 # own Via tokens: more is a loop
    INTERIM_MAX = 16            # 1xx answers per exchange
    QUEUE_MAX = 1024            # exchanges waiting per service and worker
    QUEUE_RETRY_MS = 100        # how often waiters try again without being woken
    LINGER_MS = 1000            # how long a closing client may still send
    LINGER_BYTES = 1 << 20      # and how much
    DRAIN_IDLE_MS = 2000        # an idle client connection outlives the start of a drain by this
    POOL_IDLE_MAX = 8           # idle connections per machine that may stay for upstream_idle
    POOL_SURPLUS_MS = 250       # how long more than that may stay
    RATE_WINDOW_MS = 5000       # over which the minimum body rate is judged
    ACCEPT_PAUSE_MS = 100       # without descriptors
    MAILBOX = 1024              # letters from the Python side that may wait
    ANSWER_PREPARED = 255       # instead of an ErrorCode: the answer stands in `render`
    HOST_TRANSPORTS = 16        # to one host and with the same hops, at most

cdef enum:                      # Source.kind
    K_WAKE = 1
    K_LISTENER
    K_DOWN                      # client side, HTTP
    K_UP                        # VM side, HTTP (also while connecting for a relay)
    K_TUNNEL                    # either side of a byte relay
    K_TRANSPORT                 # an HTTP/2 connection, with another proxy or a machine
    K_STREAM                    # one stream of it: no socket

cdef enum ConnState:
    DS_PROXY = 1                # waiting for the PROXY protocol header
    DS_HEAD                     # idle, or in the middle of a request head
    DS_BUSY                     # has an exchange
    DS_LINGER                   # answered for the last time; input is discarded
    US_CONNECTING               # its TLS handshake, too; also a stream whose transport is not open yet
    US_BUSY
    US_IDLE                     # in the pool
    US_GREETING                 # a TCP relay to another host: its answer is awaited
    TS_HELLO                    # K_TRANSPORT: the other side's hello is awaited, its TLS handshake first

cdef enum ConnFlag:
    CF_FIN = 1                  # the other side has sent its last byte
    CF_SHUT = 2                 # we have sent ours
    CF_BOUND = 4                # the address belongs to one app: app, app_generation are set
    CF_APP_COUNTED = 8          # holds one unit of BK_APP of `counted_app`
    CF_PROXY_COUNTED = 16       # holds one unit of BK_PROXY
    CF_OPEN_COUNTED = 32        # VM side: holds one unit of BK_OPEN of its machine
    CF_REUSED = 64              # VM side: came from the pool
    CF_BULK = 128               # tunnel: reads fill the scratch, so splice
    CF_PARTIAL = 256            # a head has begun: its absolute deadline runs
    CF_TRUSTED = 512            # may speak the PROXY protocol
    CF_STALLED = 1024           # out has reached the limit `buffer`
    CF_PIPE_OVER = 2048         # more than `pipelined` requests wait: serve that many, then refuse
    CF_PROGRESS = 4096          # bytes went out since the write-stall deadline was set
    CF_END = 8192               # a stream: nothing follows what is in `out`
    CF_END_SENT = 16384
    CF_TRAILERS = 32768         # a stream: `in_` holds the trailers that go out behind `out`
    CF_CORKED = 65536           # what is written waits for the end of what is being read
    CF_REMOTE = 131072          # VM side: a relay through another proxy

cdef struct Conn:
    Source s
    Buf in_                     # read and not used yet
    Buf out                     # not taken by the kernel yet
    Exchange *x
    Tls *tls                    # NULL: plain
    Endpoint peer
    Endpoint local
    uint32_t app
    uint32_t app_generation
    uint32_t counted_app
    uint32_t counted_generation
    uint32_t machine            # VM side
    uint32_t machine_generation
    uint32_t hard_limit         # VM side: of the service, 0 none
    uint32_t service            # VM side
    uint32_t pool_next          # index + 1
    uint32_t pool_prev
    uint32_t scanned            # bytes of in_ that the head parser has seen
    uint32_t ahead              # bytes of in_ that the pipeline count has seen
    uint64_t sent               # VM side: bytes that the kernel has taken
    Transport *carrier          # what a stream runs on; NULL for everything that has a socket
    H2Stream *h2                # of a stream; NULL until its transport is open
    Conn *link_next             # streams of one transport
    Conn *link_prev
    uint32_t owed               # of a stream: bytes received and not given back as window
    uint32_t received           # and since window_us
    uint64_t window_us
    uint32_t served             # requests answered on this connection
    uint32_t idle_ms            # of the port, 0: the proxy's own
    uint32_t head_ms
    uint32_t flags              # ConnFlag
    uint16_t service_port       # the port that the client meant
    uint16_t pipelined          # whole requests waiting in in_
    uint16_t vm_port
    uint8_t state               # ConnState
    uint8_t vm_side             # 1: towards a VM
    Listener *listener          # K_LISTENER only
    Transport *transport        # K_TRANSPORT only; NULL until its hello is accepted

cdef enum BodyMode:
    BODY_NONE = 0
    BODY_LENGTH
    BODY_CHUNKED
    BODY_UNTIL_CLOSE

cdef struct Body:
    uint8_t mode                # BodyMode: as received
    uint8_t chunk               # sent on chunked
    uint8_t done
    uint64_t left               # BODY_LENGTH: bytes to come
    Chunked chunked
    Buf trailer

cdef enum Phase:
    PH_WAIT = 0                 # waiting for a machine that has room
    PH_CONNECT
    PH_SEND                     # the head is on its way to the VM, or there
    PH_ANSWER                   # the answer's head has been passed on
    PH_TUNNEL

cdef enum ExchangeFlag:
    XF_KEEP_ALIVE = 1           # the client may send another request after this one
    XF_UPGRADE = 2
    XF_IDEMPOTENT = 4
    XF_HALF_CLOSE = 8           # the service wants a client's FIN to be no abort
    XF_PRISTINE = 16
    XF_ADMITTED = 32            # holds one unit of BK_INFLIGHT of `machine`
    XF_STALE_RETRIED = 64
    XF_RAW = 128                # a raw TCP relay: no heads
    XF_CLOSE = 256              # the client's connection ends with this answer
    XF_BODY_STREAMED = 512      # request bytes beyond `head` have been taken from the client: cannot be repeated
    XF_RESET = 1024             # the answer's framing needs a reset to be seen as cut
    XF_VM_STATUS = 2048         # `status` came from the VM
    XF_CONTENT_SENT = 4096      # some byte has gone to the VM on this attempt
    XF_VM_KEEPS = 8192          # the VM keeps its connection after this answer
    XF_COUNTED = 32768          # the answer has been counted
    XF_SENDING_OVER = 16384     # the VM takes no more of the request; its answer may still come
    XF_DELIVERY = 65536         # came from another proxy, which has chosen the machine
    XF_MAY_RELAY = 131072       # and may be passed on to a third one
    XF_FULL_SEEN = 262144       # some host said that its machine is full
    XF_UNREACHED = 524288       # the last attempt cannot have reached the app
    XF_HTTP2 = 1048576          # the machine speaks HTTP/2
    XF_WAY_RETRIED = 2097152    # the same machine has been tried once more because the way to its host had failed

cdef struct Exchange:
    uint32_t index
    uint8_t phase
    uint8_t method
    uint8_t minor               # the client's HTTP/1.minor
    uint8_t accept              # AnswerKind
    uint16_t status
    uint32_t flags              # ExchangeFlag
    Conn *down
    Conn *up
    uint32_t app
    uint32_t app_generation
    uint32_t service
    uint32_t service_generation
    uint32_t machine
    uint32_t machine_generation
    uint32_t idle_ms
    uint32_t hard_limit         # of the service; 0: none
    uint8_t concurrency
    uint8_t error               # ErrorCode to report
    uint8_t last_error          # of the latest failed attempt
    uint8_t interim
    uint8_t awaits_100          # the client may hold its body back until the VM says 100
    uint8_t proxy_version       # PROXY protocol to the VM: 0 none, 1, 2
    uint8_t request_id_n
    uint8_t ntried
    uint8_t log_method_n
    uint32_t log_target_n
    uint32_t head_sent
    uint32_t kept               # bytes at the end of `head` that are body
    uint64_t key                # balance key
    uint32_t way_machine        # slot + 1 of the latest machine to which only the way failed
    uint32_t tried[TRIED_MAX]
    Buf head                    # as the VM gets it, and the body's begin; kept for a repetition and for the log
    Body request
    Body response
    Pipe *request_pipe
    Pipe *response_pipe
    uint64_t start_us           # monotonic
    uint64_t sent_us            # attempt began: connect or first byte
    uint64_t bytes_in           # body bytes from the client (relay: all)
    uint64_t bytes_out          # bytes to the client
    uint64_t window_ms          # start of the body-rate window
    uint64_t window_bytes       # bytes_in then
    uint64_t last_byte_ms       # of the request body
    uint64_t queue_until_ms
    uint64_t sent_before        # Conn.sent of the VM's connection when this attempt began
    Exchange *queue_next
    Exchange *queue_prev
    Queue *queue
    char request_id[48]

cdef struct Queue:              # exchanges of one service that wait for room
    uint32_t service
    uint32_t generation
    uint32_t count
    uint8_t dirty               # room may have come
    Exchange *head
    Exchange *tail
    Queue *next

cdef enum TransportRole:
    TR_SERVER = 1               # another proxy's, which brings requests
    TR_HOST                     # ours to another proxy
    TR_VM                       # ours to a machine that speaks HTTP/2

cdef struct Transport:          # one HTTP/2 connection
    Conn *c                     # its socket; c.in_ and c.out hold frames
    Http2 h2
    uint8_t role                # TransportRole
    uint8_t open                # requests may be sent on it
    uint8_t dead
    uint8_t dirty               # has frames or data to send: is in Worker.dirty
    uint8_t going               # says GOAWAY or was told so: no new streams
    uint8_t hops                # that its requests may still be passed on
    uint8_t port                # index into the ports of its host
    uint8_t greeted             # the answer to our hello has come
    uint8_t pinging             # a PING is out
    uint8_t retried             # it was greeted anew with a newer epoch
    uint32_t host               # TR_HOST: slot
    uint32_t host_generation
    uint32_t count              # streams
    uint32_t rtt_us             # smallest of its PINGs
    uint64_t heard_ms           # bytes came last
    uint64_t used_ms            # a stream ended last
    uint64_t ping_us            # the PING went out
    Conn *streams               # linked by Conn.link_next
    Transport *next_dirty
    Transport *next             # of Worker.transports
    Transport *prev
    Transport *sibling          # of the same host or machine

cdef struct HostLink:           # what this worker knows of another host
    Transport *transports       # linked by Transport.sibling
    uint32_t generation         # of the host slot
    uint32_t epoch              # newest that it was seen with, 0: only what the table says
    uint64_t rest_until_ms      # it could not be reached: no connection is tried before

cdef struct Listener:
    uint32_t id
    uint32_t slot
    uint16_t service_port
    uint8_t proxy_protocol
    uint8_t backhaul            # other proxies connect here
    uint8_t watched             # is in epoll
    uint8_t paused              # out of descriptors
    uint8_t gone
    uint32_t nranges
    uint8_t *ranges             # nranges x (16-byte network, prefix length): trusted sources
    Conn *conn
    Listener *next

cdef struct Config:             # one generation of settings; replaced whole
    HeadLimits limits
    uint32_t pipelined
    uint32_t buffer
    uint32_t connections
    uint32_t app_connections
    uint32_t body_rate
    uint64_t memory
    uint32_t head_ms
    uint32_t body_idle_ms
    uint32_t keepalive_ms
    uint32_t connect_ms
    uint32_t response_head_ms
    uint32_t write_stall_ms
    uint32_t upstream_idle_ms
    uint32_t tunnel_idle_ms
    uint32_t queue_ms
    uint32_t backhaul_idle_ms
    uint32_t backhaul_streams
    uint8_t access_log
    uint8_t log_json
    uint8_t via_n
    uint8_t server_n
    uint8_t region_n
    char via[64]
    char server[64]
    char region[16]

cdef struct Outbox:             # pieces of one write
    iovec iov[IOVS]
    int n
    uint32_t side_n
    uint64_t bytes
    char side[SIDE]

cdef struct Letter:             # from the Python side
    int command
    long number
    void *pointer

cdef struct Worker:
    Reactor reactor
    Pool pool
    Slab exchanges
    PipePool pipes
    Shm shm
    Table table
    Config *config
    WorkerCounters *counters
    Listener *listeners
    Queue *queues
    Transport *transports
    Transport *dirty            # to be written at the end of the turn
    H2Config h2_client          # towards other hosts
    H2Config h2_server
    H2Config h2_vm              # towards machines
    H2Io h2                     # lent to every call of the codec
    Slab h2_streams
    uint32_t boot_epoch         # 0: no backhaul
    uint8_t mesh_address[16]    # by which other hosts know us
    uint8_t backhaul_key[HELLO_KEY]
    TlsParty tls                # as other hosts know us; without a context we are plain
    HostLink *host_links        # [HOSTS_MAX] by host slot
    Transport **vm_transports   # [machines]; NULL until a machine speaks HTTP/2
    Conn *corked                # linked by Conn.link_next
    uint32_t *pool_heads        # [machines] index + 1 of the newest idle VM connection
    uint8_t *pool_counts        # [machines]
    uint32_t pool_limited       # idle VM connections of services with a hard limit
    uint32_t machines
    uint64_t owner_epoch
    uint64_t second             # of the last each_second
    uint32_t posted             # letters written so far; Python side
    uint32_t opened             # letters read so far; engine side
    Letter mailbox[MAILBOX]
    uint8_t draining
    uint8_t stopping
    uint8_t queue_dirty
    uint64_t queues_tried_ms    # when waiters tried last
    uint32_t downs              # client connections open
    uint32_t ups
    uint32_t hellos             # connections of other proxies whose hello is awaited
    uint64_t windows            # bytes by which the windows of streams have grown
    uint32_t files_max          # connections beyond which no more are accepted; the rest is for VMs
    uint32_t retry_tokens       # in tenths of a retry
    uint64_t xorshift
    uint32_t random_n           # bytes of random used
    uint8_t random[4096]        # from getrandom, for ids
    char host[32]
    uint8_t host_n
    uint8_t local_text_n
    uint64_t log_second         # whose text log_time is
    char log_time[24]           # 2026-01-31T23:59:59
    uint8_t local_address[16]   # whose text local_text is
    char local_text[48]
    uint32_t rendered           # bytes of a prepared answer in `render`
    Outbox outbox
    RequestHead request
    ResponseHead response
    char scratch[SCRATCH]
    char frames[FRAMES_IN]      # read from transports; never touched by what an event leads to
    char render[RENDER]
