from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from flyproxy._speedups.shm.budget cimport budget_quiet
from flyproxy._speedups.shm.grace cimport grace_oldest
from flyproxy._speedups.shm.platform cimport fp_load_u32, fp_load_u64
from flyproxy._speedups.shm.segments cimport NOBODY, Shm

cdef enum:
    LOOKS = 64                  # freed ids looked at before a fresh one is taken


cdef void enqueue(IdPool *pool, uint32_t id, uint64_t epoch) noexcept nogil:
    cdef uint32_t at = (pool.queue_head + pool.queue_n) % pool.n
    pool.queue[at].id = id
    pool.queue[at].epoch = epoch
    pool.queue_n += 1


cdef int idpool_open(IdPool *pool, Shm *shm, uint32_t n, int kind_a, int kind_b, const DirEntry *old) noexcept nogil:
    cdef uint32_t id
    memset(pool, 0, sizeof(IdPool))
    pool.shm = shm
    pool.n = n
    pool.kinds[0] = kind_a
    pool.kinds[1] = kind_b
    pool.generation = <uint32_t *>calloc(n, sizeof(uint32_t))
    pool.kept = <uint8_t *>calloc(n, 1)
    pool.queue = <FreeId *>calloc(n, sizeof(FreeId))
    if pool.generation == NULL or pool.kept == NULL or pool.queue == NULL:
        idpool_close(pool)
        return -1
    for id in range(n):
        pool.generation[id] = fp_load_u32(&old[id].generation)
        if pool.generation[id]:
            pool.fresh = id + 1
    for id in range(pool.fresh):
        pool.kept[id] = fp_load_u32(&old[id].ref) != 0
        if not pool.kept[id]:
            enqueue(pool, id, 0)
    return 0


cdef void idpool_close(IdPool *pool) noexcept nogil:
    free(pool.generation)
    free(pool.kept)
    free(pool.queue)
    memset(pool, 0, sizeof(IdPool))


cdef inline int quiet(IdPool *pool, uint32_t id) noexcept nogil:
    cdef int i
    for i in range(2):
        if pool.kinds[i] >= 0 and not budget_quiet(pool.shm, pool.kinds[i], id):
            return 0
    return 1


cdef uint32_t take_freed(IdPool *pool, uint32_t looks) noexcept nogil:
    cdef uint64_t oldest = grace_oldest(pool.shm)
    cdef uint32_t _look
    cdef FreeId entry
    for _look in range(looks):
        entry = pool.queue[pool.queue_head]
        if entry.epoch >= oldest:
            return NOBODY
        pool.queue_head = (pool.queue_head + 1) % pool.n
        pool.queue_n -= 1
        if quiet(pool, entry.id):
            return entry.id
        enqueue(pool, entry.id, fp_load_u64(&pool.shm.root.table_epoch))    # its last exchange goes on: to the end
    return NOBODY


cdef uint32_t idpool_take(IdPool *pool) noexcept nogil:
    cdef uint32_t id = take_freed(pool, min(pool.queue_n, <uint32_t>LOOKS))
    if id == NOBODY and pool.fresh < pool.n:
        id = pool.fresh
        pool.fresh += 1
    elif id == NOBODY:
        id = take_freed(pool, pool.queue_n)
    if id != NOBODY:
        pool.generation[id] = max(pool.generation[id] + 1, <uint32_t>1)     # 0 means "none", also after 2^32 owners
    return id


cdef void idpool_keep(IdPool *pool, uint32_t id) noexcept nogil:
    pool.kept[id] = 0


cdef void idpool_give(IdPool *pool, uint32_t id) noexcept nogil:
    enqueue(pool, id, fp_load_u64(&pool.shm.root.table_epoch))


cdef void idpool_forget(IdPool *pool) noexcept nogil:
    cdef uint32_t id
    for id in range(pool.fresh):
        if pool.kept[id]:
            pool.kept[id] = 0
            idpool_give(pool, id)
