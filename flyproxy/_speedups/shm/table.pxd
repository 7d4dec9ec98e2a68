# The VM table as its readers see it. One writer (state), any number of lock-free readers.
#
# Everything that is looked up is immutable once published and replaced whole; what was replaced is reused only after
# every live reader has passed a quiescent point (table_enter / table_leave once per engine turn). So a pointer from
# here is good until the end of the turn and no longer: keep ids with generations across turns, never pointers. Every
# offset read from the segment is checked against its bounds: the table is input.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:
    EPOCH_OFFLINE = 0           # ProcBeat.epoch of a reader that holds nothing

cdef enum:
    HOSTS_MAX = 1024            # hosts of the mesh; every host slot is below
    HOST_PORTS_MAX = 64         # backhaul ports of one host
    HOST_HERE = 0xFFFFFFFF      # TMachine.host_slot: this host's, or of no host: connect to its address directly
    HOST_UNKNOWN = 0xFFFFFFFE   # TMachine.host_slot: its host has no record: it cannot be reached

cdef enum HostRole:
    ROLE_EDGE = 1
    ROLE_WORKER = 2

cdef enum Handler:
    H_HTTP = 1
    H_TLS = 2
    H_PROXY_PROTO = 4
    H_PG_TLS = 8

cdef enum Concurrency:
    CT_CONNECTIONS = 0
    CT_REQUESTS = 1

cdef enum Balance:
    BAL_LEAST = 0
    BAL_HASH_IP
    BAL_HASH_HEADER
    BAL_HASH_COOKIE

cdef enum AddressKind:
    ADDR_UNKNOWN = 0
    ADDR_APP                    # belongs to one app
    ADDR_SHARED                 # every app that has a hostname

cdef struct TApp:
    uint32_t id
    uint32_t generation         # of this id; raised when the id is given to another app
    uint32_t nservices
    uint32_t name_n
    char name[64]               # NUL-terminated
    # private tail: ports, services

cdef struct TPort:              # what one public port (range) of an app means
    uint16_t start
    uint16_t end
    uint16_t handlers           # Handler bits; 0 raw TCP
    uint8_t force_https
    uint8_t pristine
    uint8_t proxy_version       # PROXY protocol towards the VM when H_PROXY_PROTO: 1 or 2
    uint8_t h2_backend          # http_options.h2_backend: HTTP/2 with prior knowledge towards the VM
    uint8_t pad[2]
    uint32_t service            # index for table_service
    uint32_t idle_timeout_ms    # http_options.idle_timeout; 0: the proxy's own
    uint32_t head_timeout_ms    # http_options.headers_read_timeout; 0: the proxy's own

cdef struct TService:
    uint32_t id                 # of this service among all; index of its wait mask
    uint32_t app                # TApp.id
    uint32_t generation         # of this id
    uint16_t internal_port
    uint8_t concurrency         # Concurrency
    uint8_t balance             # Balance
    uint32_t soft_limit
    uint32_t hard_limit         # 0: none
    uint8_t half_close
    uint8_t key_n               # bytes of key
    uint16_t nregions           # candidate lists, nearest first
    uint32_t total              # machines of the service, routable or not
    uint32_t routable
    char key[64]                # header (lower case) or cookie name for BAL_HASH_*
    # private tail: per region list of routable machine slots, ring

cdef struct TMachine:           # 128 bytes
    uint32_t slot               # index of its budgets and load word
    uint32_t generation         # of this slot
    uint32_t app                # TApp.id
    uint32_t host_slot          # slot of its host's THost, HOST_HERE or HOST_UNKNOWN
    uint16_t port               # overrides internal_port; 0: does not
    uint16_t region_n
    uint8_t address[16]         # v4 as v4-mapped
    uint8_t id_n
    uint8_t host_n
    uint8_t health              # 0 unknown, 1 passing, 2 critical
    uint8_t cordoned
    char id[40]
    char region[16]
    char host[32]

cdef struct THost:              # a host of the mesh
    uint32_t slot               # index of its load word (closeness.pxd)
    uint32_t generation         # of this slot
    uint32_t epoch              # of its last boot that is known: seconds since 1970
    uint16_t nports             # at most HOST_PORTS_MAX; 0: it takes no backhaul connections
    uint8_t id_n
    uint8_t region_n
    uint8_t roles               # HostRole bits
    uint8_t tls                 # it speaks TLS with hosts that do
    uint8_t address[16]         # in the mesh; v4 as v4-mapped
    uint16_t ports[64]          # backhaul ports, one per slot of that host's proxy
    char id[32]
    char region[16]

cdef struct Table:              # one reader; lives in the worker
    Shm *shm
    uint8_t *base               # active segment, refreshed by table_enter
    uint64_t size
    uint64_t revision           # store revision that this turn reads
    uint64_t generation         # 0: nothing published yet

# `proc` of shm is NOBODY: a reader without a beat, whose results hold only if table_recycled says 0 afterwards.
cdef void table_init(Table *t, Shm *shm) noexcept nogil
# Once at the start of a turn: announce the epoch, refresh base/revision/generation, store them in the own beat.
cdef void table_enter(Table *t) noexcept nogil
# Before sleeping: nothing of the table is held any more.
cdef void table_leave(Table *t) noexcept nogil

# Host in lower case without port; exact names win, then `*.` wildcards of one label. NULL: unknown.
cdef const TApp *table_app_by_host(Table *t, const char *host, uint32_t host_n) noexcept nogil
# AddressKind; *app set for ADDR_APP.
cdef int table_address(Table *t, const uint8_t *address, const TApp **app) noexcept nogil
# The one app with a raw TCP service (no http, no tls handler) on this port, for addresses that belong to nobody;
# NULL when none or several have one.
cdef const TApp *table_raw_port(Table *t, uint16_t port) noexcept nogil
cdef const TApp *table_app(Table *t, uint32_t id, uint32_t generation) noexcept nogil
cdef const TPort *table_port(Table *t, const TApp *app, uint16_t port) noexcept nogil
# 1 when some app has an http service on this port (shared addresses then speak HTTP there).
cdef int table_http_port(Table *t, uint16_t port) noexcept nogil
cdef const TService *table_service(Table *t, const TApp *app, uint32_t service) noexcept nogil
# The first service with this internal port.
cdef const TService *table_service_by_port(Table *t, const TApp *app, uint16_t internal_port) noexcept nogil
cdef const TService *table_service_by_id(Table *t, uint32_t id, uint32_t generation) noexcept nogil
# NULL when the slot now holds another machine or none.
cdef const TMachine *table_machine(Table *t, uint32_t slot, uint32_t generation) noexcept nogil
# The machine of an id, wherever it is; NULL also when the writer was made without a mesh: it keeps no such index.
cdef const TMachine *table_machine_by_id(Table *t, const char *id, uint32_t n) noexcept nogil
# The host in a slot, whatever the generation; NULL: nobody.
cdef const THost *table_host(Table *t, uint32_t slot) noexcept nogil
# A scan over all hosts: for handshakes, not for requests.
cdef const THost *table_host_by_id(Table *t, const char *id, uint32_t n) noexcept nogil
# Lists for route/: the r-th nearest region's routable machines (slot indexes), *n entries.
cdef const uint32_t *table_candidates(Table *t, const TService *s, uint32_t r, uint32_t *n) noexcept nogil
# The consistent-hash ring of the service's nearest region: sorted points, hash in the upper 40 bits, slot in the lower
# 24.
cdef const uint64_t *table_ring(Table *t, const TService *s, uint32_t *n) noexcept nogil
# The app of an id, the machine in a slot, whatever the generation.
cdef const TApp *table_app_by_id(Table *t, uint32_t id) noexcept nogil
cdef const TMachine *table_slot(Table *t, uint32_t slot) noexcept nogil
# Ask the CPU for what table_slot will read: first the reference, then, once that is there, the record.
cdef void table_prefetch_slot(Table *t, uint32_t slot) noexcept nogil
cdef void table_prefetch_machine(Table *t, uint32_t slot) noexcept nogil
# Keyed hash under the key of the published table.
cdef uint64_t table_hash(Table *t, const void *bytes, uint32_t n) noexcept nogil

# Readers without a beat: take a mark, look up and copy out, then ask whether memory was reused meanwhile.
cdef uint64_t table_mark(Table *t) noexcept nogil
cdef int table_recycled(Table *t, uint64_t mark) noexcept nogil
