cimport cython

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from flyproxy._speedups.shm.arena cimport Arena, arena_at, arena_give, arena_retire, arena_take
from flyproxy._speedups.shm.closeness cimport host_word_set
from flyproxy._speedups.shm.idpool cimport (
    idpool_close, idpool_forget, idpool_give, idpool_keep, idpool_open, idpool_take,
)
from flyproxy._speedups.shm.platform cimport fp_release_u32, fp_store_u32
from flyproxy._speedups.shm.segments cimport NOBODY
from flyproxy._speedups.shm.table cimport HOST_HERE, HOST_UNKNOWN, HOSTS_MAX, THost, Table, table_host
from flyproxy._speedups.shm.table_layout cimport DirEntry


@cython.no_gc_clear
cdef class Hosts:
    cdef open(self, Arena *arena, Room room, Table *former):
        cdef const THost *host
        cdef uint32_t slot
        self.shm = arena.shm
        self.arena = arena
        self.room = room
        self.by_id, self.former_ids, self.staged = {}, {}, {}
        self.moved = False
        if idpool_open(&self.slots, self.shm, HOSTS_MAX, -1, -1,
                       <const DirEntry *>(former.base + self.shm.at.host_dir)) < 0:
            raise MemoryError("the table writer's own memory could not be allocated")
        for slot in range(self.slots.fresh):
            host = table_host(former, slot) if self.slots.kept[slot] else NULL
            if host != NULL:
                self.former_ids[host.id[:host.id_n]] = slot

    cdef close(self):
        idpool_close(&self.slots)

    cdef uint32_t slot_of(self, bytes id):
        if not self.mesh or not id or id == self.own:
            return HOST_HERE
        return self.by_id.get(id, <uint32_t>HOST_UNKNOWN)

    # -- changes
    cdef put(self, bytes id, THost *record):
        cdef uint32_t ref = arena_take(self.arena, sizeof(THost))
        if ref == 0:
            raise self.room.memory_full()
        slot = self.by_id.get(id)
        if slot is None:
            try:
                slot = self.by_id[id] = self.new_slot(id)
            except BaseException:
                arena_give(self.arena, ref)
                raise
            self.moved = True
        record.slot = slot
        record.generation = self.slots.generation[record.slot]
        memcpy(arena_at(self.arena, ref), record, sizeof(THost))
        self.stage(record.slot, ref)

    cdef remove(self, bytes id):
        slot = self.by_id.pop(id, None)
        if slot is not None:
            self.moved = True
            self.stage(slot, 0)

    cdef new_slot(self, bytes id):
        """The slot that the host had in the former table, and with it what was measured; or a free one."""
        cdef uint32_t slot
        former = self.former_ids.get(id)
        if former is not None and self.slots.kept[<uint32_t>former]:
            idpool_keep(&self.slots, former)
            return former
        slot = idpool_take(&self.slots)
        if slot == NOBODY:
            gone = HOSTS_MAX - len(self.by_id)
            remark = f" ({gone} of them by removed hosts that readers may still hold)" if gone else ""
            raise self.room.full("hosts", HOSTS_MAX, "", remark)
        host_word_set(self.shm, slot, 0)    # what was measured of the one before
        return slot

    cdef stage(self, uint32_t slot, uint32_t ref):
        """The next commit publishes this record (0: none) for the slot."""
        cdef uint32_t before = self.staged.get(slot) or 0
        if before:
            arena_give(self.arena, before)
        self.staged[slot] = ref

    # -- commit
    cdef publish(self, uint8_t *base):
        cdef DirEntry *entry
        cdef uint32_t slot, ref, old
        for slot, ref in self.staged.items():
            if ref:
                entry = <DirEntry *>(base + self.shm.at.host_dir) + slot
                old = entry.ref
                fp_store_u32(&entry.generation, self.slots.generation[slot])
                fp_release_u32(&entry.ref, ref)
                if old:
                    arena_retire(self.arena, old)
        self.moved = False

    cdef unpublish(self, uint8_t *base):
        cdef DirEntry *entry
        cdef uint32_t slot, ref, old
        for slot, ref in self.staged.items():
            if not ref:
                entry = <DirEntry *>(base + self.shm.at.host_dir) + slot
                old = entry.ref
                fp_release_u32(&entry.ref, 0)
                if old:
                    arena_retire(self.arena, old)
                idpool_give(&self.slots, slot)
        self.staged.clear()
        if self.former_ids:
            idpool_forget(&self.slots)
            self.former_ids = {}
