cimport cython

from libc.stdint cimport uint64_t
from flyproxy._speedups.shm.platform cimport fp_acquire_u64, fp_load_u64, fp_lowest_bit
from flyproxy._speedups.shm.segments cimport SEG_TABLE0, shm_beat, shm_live
from flyproxy._speedups.shm.table cimport EPOCH_OFFLINE


NO_SETTING = "no setting raises that; remove the records of those that are gone"


class TableFull(Exception):
    """A fixed capacity of the table is used up. `capacity` says which, `setting` which setting raises it; "": none."""

    def __init__(self, capacity, limit, setting, remark=""):
        remedy = f"raise {setting} in flyproxy.toml and restart flyproxy" if setting else NO_SETTING
        super().__init__(f"the table is full: all {limit} {capacity} are in use{remark}; {remedy}")
        self.capacity = capacity
        self.setting = setting


@cython.no_gc_clear
cdef class Room:
    cdef full(self, str capacity, limit, str setting, str remark=""):
        self.refused += 1
        return TableFull(capacity, limit, setting, remark)

    cdef memory_full(self):
        held = self.readers(fp_load_u64(&self.shm.root.table_epoch)) if self.arena.waiting else []
        remark = f" ({self.arena.waiting} of them wait for process index {', '.join(map(str, held))})" if held else ""
        size = self.shm.at.size[SEG_TABLE0] - self.shm.at.arena
        return self.full("bytes of memory", size, "[table] machines or apps", remark)

    cdef list readers(self, uint64_t epoch):
        cdef uint64_t live = shm_live(self.shm), at
        found = []
        while live:
            at = fp_acquire_u64(&shm_beat(self.shm, fp_lowest_bit(live)).epoch)
            if at != EPOCH_OFFLINE and at <= epoch:
                found.append(fp_lowest_bit(live))
            live &= live - 1
        return found
