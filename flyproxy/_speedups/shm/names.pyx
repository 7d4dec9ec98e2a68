cimport cython

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from flyproxy._speedups.shm.arena cimport Arena, arena_at, arena_give, arena_retire, arena_take
from flyproxy._speedups.shm.index cimport index_find, index_open, index_put, index_remove, index_reserve
from flyproxy._speedups.shm.platform cimport fp_siphash13
from flyproxy._speedups.shm.table_layout cimport GRANULE


@cython.no_gc_clear
cdef class Names:
    cdef int open(self, Arena *arena, uint64_t *word, const uint64_t *key):
        self.arena = arena
        self.key = key
        self.staged = {}
        self.count = self.wildcards = 0
        return index_open(&self.index, arena, word)

    cdef uint64_t hash(self, bytes name):
        return fp_siphash13(self.key, <const char *>name, <uint32_t>len(name))

    cdef const KeyBlock *find(self, bytes name):
        ref = self.staged.get(name)
        if ref is not None:
            return <const KeyBlock *>arena_at(self.arena, ref) if ref else NULL
        return index_find(self.arena.base, <uint64_t>self.arena.end * GRANULE, self.index.word[0], self.hash(name),
                          <const char *>name, <uint32_t>len(name))

    cdef int put(self, bytes name, uint32_t value):
        cdef uint32_t n = <uint32_t>len(name)
        cdef bint known = self.find(name) != NULL
        cdef KeyBlock *block
        cdef uint32_t ref
        # Room in the index first: then publish cannot fail.
        if index_reserve(&self.index, self.arena, self.index.live + <uint32_t>len(self.staged) + 1) < 0:
            return -1
        ref = arena_take(self.arena, sizeof(KeyBlock) + n)
        if ref == 0:
            return -1
        block = <KeyBlock *>arena_at(self.arena, ref)
        block.value = value
        block.n = n
        memcpy(block.key, <const char *>name, n)
        self.stage(name, ref)
        self.count += not known
        return 0

    cdef void remove(self, bytes name):
        self.count -= self.find(name) != NULL
        self.stage(name, 0)

    cdef void stage(self, bytes name, uint32_t ref):
        cdef uint32_t before = self.staged.get(name) or 0
        if before:
            arena_give(self.arena, before)
        self.staged[name] = ref

    cdef void publish(self):
        cdef uint32_t ref, old
        for name, ref in self.staged.items():
            if ref:
                old = index_put(&self.index, self.arena, self.hash(name), ref)
            else:
                old = index_remove(&self.index, self.arena, self.hash(name), <const char *>name, <uint32_t>len(name))
            if old:
                arena_retire(self.arena, old)
            if name.startswith(b"*."):
                self.wildcards += (ref != 0) - (old != 0)
        self.staged.clear()
