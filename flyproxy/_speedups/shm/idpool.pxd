# Ids of apps, services and machine slots: small numbers that index directories, budgets and series. An id is given
# again only when no reader can hold a list with it (grace.pxd), no process counts anything under it, and with the next
# generation.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.table_layout cimport DirEntry

cdef struct FreeId:
    uint64_t epoch              # readers of this epoch or an older one may hold it
    uint32_t id

cdef struct IdPool:
    Shm *shm
    uint32_t n                  # ids
    uint32_t fresh              # at and above: never given
    uint32_t *generation        # per id, of its present or last owner
    uint8_t *kept               # per id: 1 while it is kept for the owner that the former table names
    int kinds[2]                # budgets counted under the id; -1: none
    FreeId *queue               # ring of n
    uint32_t queue_n
    uint32_t queue_head

# `old`: the directory of the former table; ids with a reference there are kept for their owners. -1: no memory.
cdef int idpool_open(IdPool *pool, Shm *shm, uint32_t n, int kind_a, int kind_b, const DirEntry *old) noexcept nogil
cdef void idpool_close(IdPool *pool) noexcept nogil
# An id with its next generation; NOBODY: all are in use.
cdef uint32_t idpool_take(IdPool *pool) noexcept nogil
# The same id under the same generation for the owner that it was kept for.
cdef void idpool_keep(IdPool *pool, uint32_t id) noexcept nogil
# To be called after the id was unpublished.
cdef void idpool_give(IdPool *pool, uint32_t id) noexcept nogil
# Gives up all ids that are still kept for owners of the former table.
cdef void idpool_forget(IdPool *pool) noexcept nogil
