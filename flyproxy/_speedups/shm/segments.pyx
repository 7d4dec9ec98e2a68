# Creating, sizing and mapping the segments, and the small shared words of the root segment.
from libc.errno cimport EINVAL, EPROTO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport munmap
from posix.unistd cimport close
from flyproxy._speedups.shm.budget cimport BK_APP, BK_COUNT, BK_INFLIGHT, BK_OPEN, BK_PROXY
from flyproxy._speedups.shm.counters cimport AppSeries, MachineSeries, WorkerCounters
from flyproxy._speedups.shm.counters_layout cimport SERIES_MAX, AreaHeader
from flyproxy._speedups.shm.logring_layout cimport RING_BYTES, LogRing
from flyproxy._speedups.shm.platform cimport (
    FP_SEGMENT_NAMES, fp_eventfd_wake, fp_file_size, fp_map, fp_memfd, fp_siphash13,
)
from flyproxy._speedups.shm.replay cimport REPLAY_BYTES
from flyproxy._speedups.shm.table cimport HOSTS_MAX, THost, TApp, TMachine, TPort, TService
from flyproxy._speedups.shm.table_layout cimport (
    HEADER_BYTES, SLOT_BITS, AppTail, DirEntry, IndexSlot, KeyBlock, RegionRef, ServiceTail, TableHeader, Wait,
)

cdef enum:
    LAYOUT_VERSION = 3          # raised by hand when meaning changes and sizes do not
    PAGE = 4096

cdef uint64_t MAGIC = 0x31797870796c66  # "flypxy1"
NAMES = ("root", "table0", "table1", "load", "counters", "logs")


# -- sizes
cdef inline uint64_t up(uint64_t n, uint64_t to) noexcept nogil:
    return (n + to - 1) // to * to


cdef int shm_sizes(Sizes *out, uint32_t apps, uint32_t hostnames, uint32_t addresses, uint32_t machines, uint32_t procs,
                   uint32_t slots) noexcept nogil:
    cdef uint32_t most = 1 << 23    # spare slots included, an index still fits a ring point
    if not (0 < apps <= most and 0 < hostnames <= most and 0 < addresses <= most and 0 < machines <= most):
        return -1
    if not (0 < procs <= PROCS_MAX and 0 < slots <= SLOTS_MAX):
        return -1
    out.apps = apps + apps // 8 + 64
    out.hostnames = hostnames
    out.addresses = addresses
    out.machines = machines + machines // 8 + 64
    out.procs = <uint32_t>up(procs, 16)
    out.slots = slots
    return 0


cdef void place_table(const Sizes *sizes, Places *out) noexcept nogil:
    """Directories of fixed size, then the arena: twice what the settings need at 1 KB an app, and 64 MiB."""
    cdef uint64_t need
    out.services = 4 * sizes.apps
    out.app_dir = HEADER_BYTES
    out.machine_dir = up(out.app_dir + sizes.apps * sizeof(DirEntry), 64)
    out.service_dir = up(out.machine_dir + sizes.machines * sizeof(DirEntry), 64)
    out.host_dir = up(out.service_dir + out.services * sizeof(DirEntry), 64)
    out.raw_ports = up(out.host_dir + HOSTS_MAX * sizeof(DirEntry), 64)
    out.http_ports = out.raw_ports + 65536 * sizeof(uint32_t)
    out.arena = up(out.http_ports + 65536, PAGE)
    need = (<uint64_t>sizes.hostnames + sizes.addresses) * 192 + sizes.machines * <uint64_t>288
    need += sizes.apps * <uint64_t>1024
    out.size[SEG_TABLE0] = up(out.arena + 2 * need + (<uint64_t>64 << 20), PAGE)
    out.size[SEG_TABLE1] = out.size[SEG_TABLE0]


cdef void place_load(const Sizes *sizes, Places *out) noexcept nogil:
    cdef uint64_t at = 0
    cdef int kind
    out.budget_stride = sizes.procs * sizeof(uint32_t)      # whole cache lines: procs is a multiple of 16
    out.budget_n[BK_INFLIGHT] = sizes.machines
    out.budget_n[BK_OPEN] = sizes.machines
    out.budget_n[BK_APP] = sizes.apps
    out.budget_n[BK_PROXY] = 1
    for kind in range(BK_COUNT):
        out.budget[kind] = at
        at += out.budget_n[kind] * out.budget_stride
    out.waits = at
    out.host_words = up(at + out.services * sizeof(Wait), 64)
    out.replay = up(out.host_words + HOSTS_MAX * sizeof(uint64_t), PAGE)
    out.size[SEG_LOAD] = up(out.replay + REPLAY_BYTES, PAGE)


cdef void place_counters(const Sizes *sizes, Places *out) noexcept nogil:
    out.app_series = min(sizes.apps + 1, <uint32_t>SERIES_MAX)
    out.machine_series = min(sizes.machines + 1, <uint32_t>SERIES_MAX)
    out.app_index = up(sizeof(AreaHeader) + sizeof(WorkerCounters), 64)
    out.machine_index = up(out.app_index + sizes.apps * sizeof(uint32_t), 64)
    out.app_pool = up(out.machine_index + sizes.machines * sizeof(uint32_t), 64)
    out.machine_pool = up(out.app_pool + out.app_series * sizeof(AppSeries), 64)
    out.counters_stride = up(out.machine_pool + out.machine_series * sizeof(MachineSeries), PAGE)
    out.size[SEG_COUNTERS] = sizes.procs * out.counters_stride


cdef void shm_places(const Sizes *sizes, Places *out) noexcept nogil:
    memset(out, 0, sizeof(Places))
    out.size[SEG_ROOT] = up(ROOT_BEATS + sizes.procs * sizeof(ProcBeat), PAGE)
    place_table(sizes, out)
    place_load(sizes, out)
    place_counters(sizes, out)
    out.log_stride = up(sizeof(LogRing) + RING_BYTES, PAGE)
    out.size[SEG_LOGS] = sizes.procs * out.log_stride


cdef uint64_t shm_layout(const Sizes *sizes) noexcept nogil:
    """Hash over everything two processes must agree on to read each other's words."""
    cdef uint64_t key[2]
    cdef uint64_t parts[32]
    cdef Places at
    key[0] = MAGIC
    key[1] = LAYOUT_VERSION
    shm_places(sizes, &at)
    parts[0] = sizeof(Root)
    parts[1] = sizeof(ProcBeat)
    parts[2] = sizeof(TApp)
    parts[3] = sizeof(TPort)
    parts[4] = sizeof(TService)
    parts[5] = sizeof(TMachine)
    parts[6] = sizeof(TableHeader)
    parts[7] = sizeof(DirEntry)
    parts[8] = sizeof(IndexSlot)
    parts[9] = sizeof(KeyBlock)
    parts[10] = sizeof(RegionRef)
    parts[11] = sizeof(AppTail)
    parts[12] = sizeof(ServiceTail)
    parts[13] = sizeof(Wait)
    parts[14] = sizeof(WorkerCounters)
    parts[15] = sizeof(AppSeries)
    parts[16] = sizeof(MachineSeries)
    parts[17] = sizeof(LogRing)
    parts[18] = RING_BYTES
    parts[19] = sizes.apps
    parts[20] = sizes.hostnames
    parts[21] = sizes.addresses
    parts[22] = sizes.machines
    parts[23] = sizes.procs
    parts[24] = sizes.slots
    parts[25] = SLOT_BITS
    parts[26] = sizeof(THost)
    return fp_siphash13(key, parts, 27 * 8) ^ fp_siphash13(key, &at, sizeof(Places))


# -- creation
cdef int shm_create(const Sizes *sizes, uint32_t limit_apps, uint32_t limit_machines, int *fds) noexcept nogil:
    cdef Places at
    cdef Root *root
    cdef int i, j, error = 0
    shm_places(sizes, &at)
    for i in range(SEG_COUNT):
        fds[i] = fp_memfd(FP_SEGMENT_NAMES[i], at.size[i])
        if fds[i] < 0:
            error = fds[i]
            for j in range(i):
                close(fds[j])
            return error
    root = <Root *>fp_map(fds[SEG_ROOT], at.size[SEG_ROOT], 1)
    if root == NULL:
        error = -errno
        for i in range(SEG_COUNT):
            close(fds[i])
        return error
    root.magic = MAGIC
    root.layout = shm_layout(sizes)
    root.sizes = sizes[0]
    root.table_epoch = 1
    root.limit_apps = limit_apps
    root.limit_machines = limit_machines
    for i in range(SLOTS_MAX):
        root_owners(root)[i] = NOBODY
    munmap(root, at.size[SEG_ROOT])
    return 0


# -- mapping
cdef int check_root(Shm *shm) noexcept nogil:
    """Takes over sizes and places when the root segment is ours and of this layout."""
    cdef uint32_t most = 1 << 24
    shm.sizes = shm.root.sizes
    if shm.root.magic != MAGIC or shm.sizes.procs > PROCS_MAX or shm.sizes.slots > SLOTS_MAX:
        return -EPROTO
    if max(shm.sizes.apps, shm.sizes.hostnames, shm.sizes.addresses, shm.sizes.machines) > most:
        return -EPROTO
    if shm.root.layout != shm_layout(&shm.sizes):
        return -EPROTO
    shm_places(&shm.sizes, &shm.at)
    return 0


cdef int map_one(Shm *shm, int segment, int fd, int writable, uint64_t least) noexcept nogil:
    cdef int64_t size = fp_file_size(fd)
    if size < 0:
        return <int>size
    if <uint64_t>size < least:
        return -EINVAL
    shm.base[segment] = <uint8_t *>fp_map(fd, size, writable)
    if shm.base[segment] == NULL:
        return -errno
    shm.size[segment] = size
    return 0


cdef int shm_map(Shm *shm, const int *fds, uint32_t writable, uint32_t proc) noexcept nogil:
    cdef int i, result
    memset(shm, 0, sizeof(Shm))
    shm.proc = proc
    for i in range(PROCS_MAX):
        shm.wake_fd[i] = -1
    result = map_one(shm, SEG_ROOT, fds[SEG_ROOT], writable & 1, ROOT_BEATS)
    if result == 0:
        shm.root = <Root *>shm.base[SEG_ROOT]
        result = check_root(shm)
    if result == 0 and (shm.size[SEG_ROOT] < shm.at.size[SEG_ROOT] or (proc != NOBODY and proc >= shm.sizes.procs)):
        result = -EINVAL
    for i in range(1, SEG_COUNT):
        if result == 0:
            result = map_one(shm, i, fds[i], writable >> i & 1, shm.at.size[i])
    if result < 0:
        shm_unmap(shm)
    return result


cdef void shm_unmap(Shm *shm) noexcept nogil:
    cdef int i
    for i in range(SEG_COUNT):
        if shm.base[i] != NULL:
            munmap(shm.base[i], shm.size[i])
            shm.base[i] = NULL
    shm.root = NULL


cdef int shm_attach(Shm *shm, dict fds, uint32_t writable, uint32_t proc) except -1:
    cdef int numbers[SEG_COUNT]
    cdef int i, result
    missing = [name for name in NAMES if name not in fds]
    if missing:
        raise ValueError(f"shared memory: no descriptor for segment {', '.join(missing)}; "
                         f"pass all of {', '.join(NAMES)}")
    for i, name in enumerate(NAMES):
        numbers[i] = fds[name]
    result = shm_map(shm, numbers, writable, proc)
    if result == -EPROTO:
        raise ValueError("shared memory: the root segment was made by another version of flyproxy or is damaged "
                         "(layout hash differs); restart the master so that it makes new segments")
    if result == -EINVAL:
        raise ValueError(f"shared memory: a segment is smaller than its layout, or process index {proc} does not "
                         "exist; pass the descriptors that the master made, in their own places")
    if result < 0:
        raise OSError(-result, f"shared memory: mapping the segments failed with errno {-result}")
    return 0


# -- the root segment
cdef void shm_wake(Shm *shm, uint32_t proc) noexcept nogil:
    if proc < PROCS_MAX and shm.wake_fd[proc] >= 0:
        fp_eventfd_wake(shm.wake_fd[proc])
