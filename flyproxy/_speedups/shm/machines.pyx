cimport cython

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from flyproxy._speedups.shm.arena cimport Arena, arena_at, arena_give, arena_retire, arena_take
from flyproxy._speedups.shm.budget cimport BK_INFLIGHT, BK_OPEN
from flyproxy._speedups.shm.draft cimport draft_add_machine, draft_remove_machine
from flyproxy._speedups.shm.idpool cimport (
    idpool_close, idpool_forget, idpool_give, idpool_keep, idpool_open, idpool_take,
)
from flyproxy._speedups.shm.platform cimport fp_release_u32, fp_store_u32
from flyproxy._speedups.shm.segments cimport NOBODY
from flyproxy._speedups.shm.table cimport TMachine, Table, table_slot
from flyproxy._speedups.shm.table_layout cimport DirEntry, KeyBlock

cdef enum:
    CRITICAL = 2                # TMachine.health
    LISTED = 1
    UNSEEN = 2


cdef inline int routable(const TMachine *machine) noexcept nogil:
    return machine.health != CRITICAL and not machine.cordoned


@cython.no_gc_clear
cdef class Machines:
    cdef open(self, Arena *arena, Apps apps, Hosts hosts, Names ids, Table *former):
        cdef const TMachine *machine
        cdef uint32_t slot
        cdef int error
        self.shm = apps.shm
        self.arena = arena
        self.apps, self.hosts, self.ids = apps, hosts, ids
        self.room = apps.room
        self.former = former
        self.by_id, self.former_ids, self.dirty = {}, {}, []
        self.records = <uint32_t *>calloc(self.shm.sizes.machines, sizeof(uint32_t))
        self.marks = <uint8_t *>calloc(self.shm.sizes.machines, 1)
        error = self.records == NULL or self.marks == NULL
        error |= idpool_open(&self.slots, self.shm, self.shm.sizes.machines, BK_INFLIGHT, BK_OPEN,
                             <const DirEntry *>(former.base + self.shm.at.machine_dir))
        if error:
            self.close()
            raise MemoryError("the table writer's own memory could not be allocated")
        for slot in range(self.slots.fresh):
            machine = table_slot(former, slot) if self.slots.kept[slot] else NULL
            if machine != NULL:
                self.former_ids[machine.id[:machine.id_n]] = slot

    cdef close(self):
        free(self.records)
        free(self.marks)
        self.records = NULL
        self.marks = NULL
        idpool_close(&self.slots)

    cdef TMachine *record(self, uint32_t slot):
        return <TMachine *>arena_at(self.arena, self.records[slot])

    # -- changes
    cdef put(self, bytes id, Draft *draft, TMachine *record):
        cdef uint32_t ref = arena_take(self.arena, sizeof(TMachine))
        cdef TMachine *known = NULL
        if ref == 0:
            raise self.room.memory_full()
        slot = self.by_id.get(id)
        if slot is not None:
            known = self.record(slot)
        record.app = draft.id
        record.host_slot = self.hosts.slot_of(record.host[:record.host_n])
        if known == NULL or known.app != draft.id:
            try:
                slot = self.new_slot(id, draft, known != NULL)
            except BaseException:
                arena_give(self.arena, ref)
                raise
            if known != NULL:
                self.withdraw(self.by_id[id])
            self.by_id[id] = slot
            self.apps.count_ref(draft.id, 1)
        elif routable(known) != routable(record) or memcmp(known.region, record.region, sizeof(record.region)):
            draft_remove_machine(self.apps.dirty(draft.id), &self.apps.drafting, known, routable(known))
        else:
            draft = NULL        # its record alone changes
        record.slot = slot
        record.generation = self.slots.generation[record.slot]
        memcpy(arena_at(self.arena, ref), record, sizeof(TMachine))
        self.stage(record.slot, ref)
        if draft != NULL and draft_add_machine(draft, &self.apps.drafting, record, routable(record)) < 0:
            raise MemoryError("the table writer's own memory is used up")

    cdef remove(self, bytes id):
        slot = self.by_id.pop(id, None)
        if slot is not None:
            self.withdraw(slot)
            self.forget(id)

    cdef forget(self, bytes id):
        if self.ids.find(id) != NULL:
            self.ids.remove(id)

    cdef new_slot(self, bytes id, Draft *draft, bint replaces):
        """The slot that the machine had in the former table, if it was the same app's, or a free one."""
        cdef const TMachine *was
        cdef uint32_t slot
        if not replaces and len(self.by_id) >= self.shm.root.limit_machines:
            raise self.room.full("machines", self.shm.root.limit_machines, "[table] machines")
        former = self.former_ids.get(id)
        if former is not None and self.slots.kept[<uint32_t>former] and self.apps.was(draft):
            was = table_slot(self.former, former)
            if was != NULL and was.app == draft.id:
                idpool_keep(&self.slots, former)
                return former
        slot = idpool_take(&self.slots)
        if slot == NOBODY:
            raise self.room.full("machine slots", self.shm.sizes.machines, "[table] machines",
                                 " (removed machines still have connections)")
        return slot

    cdef withdraw(self, uint32_t slot):
        cdef TMachine *record = self.record(slot)
        draft_remove_machine(self.apps.dirty(record.app), &self.apps.drafting, record, routable(record))
        self.apps.count_ref(record.app, -1)
        self.stage(slot, 0)

    cdef stage(self, uint32_t slot, uint32_t ref):
        """The next commit publishes this record (0: none) for the slot."""
        if self.marks[slot] & UNSEEN:
            arena_give(self.arena, self.records[slot])
        if not self.marks[slot] & LISTED:
            self.dirty.append(slot)
        self.marks[slot] = LISTED | (UNSEEN if ref else 0)
        self.records[slot] = ref

    # -- commit
    cdef follow(self):
        """Machines whose host has come or gone get new records. A failure half way leaves the rest for the next try."""
        cdef const TMachine *record
        cdef uint32_t slot, host, ref
        for slot in self.by_id.values():
            record = self.record(slot)
            host = self.hosts.slot_of(record.host[:record.host_n])
            if host == record.host_slot:
                continue
            ref = arena_take(self.arena, sizeof(TMachine))
            if ref == 0:
                raise self.room.memory_full()
            memcpy(arena_at(self.arena, ref), record, sizeof(TMachine))
            (<TMachine *>arena_at(self.arena, ref)).host_slot = host
            self.stage(slot, ref)

    cdef build(self):
        cdef const TMachine *record
        cdef const KeyBlock *known
        cdef uint32_t slot
        if self.hosts.moved and self.hosts.mesh:
            self.follow()
        for slot in self.dirty:
            record = self.record(slot)
            if self.records[slot] == 0 or not self.hosts.mesh:
                continue
            id = record.id[:record.id_n]
            known = self.ids.find(id)
            if (known == NULL or known.value != slot) and self.ids.put(id, slot) < 0:
                raise self.room.memory_full()

    cdef publish(self, uint8_t *base):
        cdef DirEntry *entry
        cdef uint32_t slot, old
        for slot in self.dirty:
            if self.records[slot]:
                entry = <DirEntry *>(base + self.shm.at.machine_dir) + slot
                old = entry.ref
                fp_store_u32(&entry.generation, self.slots.generation[slot])
                fp_release_u32(&entry.ref, self.records[slot])
                if old:
                    arena_retire(self.arena, old)

    cdef unpublish(self, uint8_t *base):
        cdef DirEntry *entry
        cdef uint32_t slot, old
        for slot in self.dirty:
            if not self.records[slot]:
                entry = <DirEntry *>(base + self.shm.at.machine_dir) + slot
                old = entry.ref
                fp_release_u32(&entry.ref, 0)
                if old:
                    arena_retire(self.arena, old)
                idpool_give(&self.slots, slot)
            self.marks[slot] = 0
        self.dirty.clear()
        if self.former_ids:
            idpool_forget(&self.slots)
            self.former_ids = {}
