# Host names, addresses or ids of machines as the writer keeps them: the published index, and what the next commit will
# change in it.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.arena cimport Arena
from flyproxy._speedups.shm.index cimport Index
from flyproxy._speedups.shm.table_layout cimport KeyBlock

cdef class Names:
    cdef Index index
    cdef Arena *arena
    cdef const uint64_t *key
    cdef dict staged            # name -> block, 0: to be removed
    cdef uint32_t count         # after the next commit
    cdef uint32_t wildcards     # published

    # -1: the arena is full.
    cdef int open(self, Arena *arena, uint64_t *word, const uint64_t *key)
    cdef uint64_t hash(self, bytes name)
    # The newest block of a name, NULL: unknown.
    cdef const KeyBlock *find(self, bytes name)
    # -1: the arena is full, nothing changed.
    cdef int put(self, bytes name, uint32_t value)
    cdef void remove(self, bytes name)
    cdef void stage(self, bytes name, uint32_t ref)
    cdef void publish(self)
