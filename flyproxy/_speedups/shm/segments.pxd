# The shared segments: sealed memfds, created by the master, mapped by everyone. All sizes are fixed at creation and
# stand in the root segment; a process of another LAYOUT (hash over the structs below and the sizes) refuses to attach.
#
#   root      header · slot owner words · one ProcBeat per process index      writers: master; state: the table_* words;
#                                                                             each process its own beat
#   table0/1  the VM table, twice: a restarted writer builds the other one and flips root.active_table   writer: state
#   load      budgets (one word per process), wait masks, closeness of hosts,  writers: workers, own words; control:
#             nonces seen                                                      closeness
#   counters  series and histograms, one area per process index                writers: workers, own area
#   logs      access-log rings, one per process index                          writers: worker and control
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_acquire_u32, fp_acquire_u64

cdef enum:                      # Segment (Cython takes no named enum as an index)
    SEG_ROOT = 0
    SEG_TABLE0
    SEG_TABLE1
    SEG_LOAD
    SEG_COUNTERS
    SEG_LOGS
    SEG_COUNT

cdef enum:
    PROCS_MAX = 64              # process indexes: workers of all living generations; live_mask is one 64-bit word
    SLOTS_MAX = 256
    NOBODY = 0xFFFFFFFF         # "no app", "no machine", "no owner" in every 32-bit index
    BUDGET_KINDS = 4            # budget.BK_COUNT
    ROOT_OWNERS = 512           # offset of the owner words
    ROOT_BEATS = 1536           # offset of the beats

cdef struct Sizes:
    uint32_t apps               # app ids: the setting and 1/8 + 64 more, for ids that wait until nobody uses them
    uint32_t hostnames
    uint32_t addresses
    uint32_t machines           # machine slots: likewise; every slot index is below
    uint32_t procs              # multiple of 16, at most PROCS_MAX
    uint32_t slots

cdef enum ProcState:
    PS_FREE = 0
    PS_STARTING
    PS_READY
    PS_DRAINING

cdef struct ProcBeat:           # 256 bytes; written by the process itself, except pid and state (master)
    uint32_t pid
    uint32_t state              # ProcState
    uint64_t engine_turns
    uint64_t engine_ns          # CLOCK_MONOTONIC at the start of the last turn
    uint64_t python_ns          # CLOCK_MONOTONIC of the last beat of the Python side
    uint64_t epoch              # table epoch being read; EPOCH_OFFLINE while asleep
    uint64_t revision           # newest table revision that the engine has read
    uint64_t generation         # and the table generation
    uint32_t connections        # client connections open
    uint32_t upstreams          # VM connections open
    uint32_t touched[BUDGET_KINDS]  # budget words of this process at and above this index are zero
    uint8_t reserved[176]

cdef struct Root:
    uint64_t magic
    uint64_t layout             # hash
    Sizes sizes
    uint32_t active_table       # 0 or 1; state
    uint32_t pad
    uint64_t live_mask          # bit per process index in use; master
    uint64_t memory_used        # reserved
    uint64_t owner_epoch        # raised by the master with every change of an owner word
    uint64_t table_epoch        # 1 and up; raised by state with every commit; what readers announce (grace.pxd)
    uint64_t flip_epoch         # that ended with the last flip of active_table: who entered later reads the active one
    uint64_t recycle_seq        # raised by state before it writes into memory that readers may have seen
    uint32_t limit_apps         # the settings themselves, without the spare ids in Sizes
    uint32_t limit_machines
    # uint32_t owners[SLOTS_MAX], ProcBeat beats[procs] follow at fixed offsets: use the functions below

cdef struct Places:             # where everything is: byte offsets inside the segments, computed from Sizes alone
    uint64_t size[SEG_COUNT]
    uint32_t services           # service ids
    uint32_t app_series         # per process, the overflow series included
    uint32_t machine_series
    uint32_t pad
    uint64_t app_dir            # table
    uint64_t machine_dir
    uint64_t service_dir
    uint64_t host_dir
    uint64_t raw_ports
    uint64_t http_ports
    uint64_t arena
    uint64_t budget[BUDGET_KINDS]       # load
    uint32_t budget_n[BUDGET_KINDS]     # indexes of each kind
    uint64_t budget_stride
    uint64_t waits
    uint64_t host_words
    uint64_t replay
    uint64_t counters_stride    # counters: bytes of one process's area, and offsets inside it
    uint64_t app_index
    uint64_t machine_index
    uint64_t app_pool
    uint64_t machine_pool
    uint64_t log_stride         # logs: bytes of one process's ring

cdef struct Shm:                # one process's mappings
    Root *root
    uint8_t *base[SEG_COUNT]
    uint64_t size[SEG_COUNT]
    uint32_t proc               # own process index, NOBODY for master, state and control
    int32_t wake_fd[PROCS_MAX]  # eventfd of each process index, -1 unknown
    Sizes sizes                 # own copies, checked against the layout hash
    Places at

# -- creation (master)
# Sizes from the settings, spare ids included; 0, or -1 when a value is out of range.
cdef int shm_sizes(Sizes *out, uint32_t apps, uint32_t hostnames, uint32_t addresses, uint32_t machines, uint32_t procs,
                   uint32_t slots) noexcept nogil
cdef void shm_places(const Sizes *sizes, Places *out) noexcept nogil
cdef uint64_t shm_layout(const Sizes *sizes) noexcept nogil
# Fills fds in Segment order; 0, or a negative errno with nothing left open.
cdef int shm_create(const Sizes *sizes, uint32_t limit_apps, uint32_t limit_machines, int *fds) noexcept nogil

# -- mapping
# 0, or a negative errno (-EPROTO: not our segment or another layout; -EINVAL: a segment is too small).
# fds in Segment order; writable: bit per segment.
cdef int shm_map(Shm *shm, const int *fds, uint32_t writable, uint32_t proc) noexcept nogil
cdef void shm_unmap(Shm *shm) noexcept nogil
# shm_map for the doors: `fds` is {"root": fd, "table0": ...}; raises ValueError or OSError with cause and remedy.
cdef int shm_attach(Shm *shm, dict fds, uint32_t writable, uint32_t proc) except -1

# -- the root segment
cdef void shm_wake(Shm *shm, uint32_t proc) noexcept nogil

cdef inline uint32_t *root_owners(Root *root) noexcept nogil:
    return <uint32_t *>(<uint8_t *>root + ROOT_OWNERS)

cdef inline uint32_t shm_slot_owner(Shm *shm, uint32_t slot) noexcept nogil:
    return fp_acquire_u32(&root_owners(shm.root)[slot]) if slot < shm.sizes.slots else <uint32_t>NOBODY

# NULL for an index that does not exist.
cdef inline ProcBeat *shm_beat(Shm *shm, uint32_t proc) noexcept nogil:
    return <ProcBeat *>(shm.base[SEG_ROOT] + ROOT_BEATS) + proc if proc < shm.sizes.procs else NULL

# Bits of the process indexes in use; never one past the last, whatever the root segment says.
cdef inline uint64_t shm_live(Shm *shm) noexcept nogil:
    return fp_acquire_u64(&shm.root.live_mask) & (~<uint64_t>0 >> (64 - shm.sizes.procs))
