# The machines as the writer keeps them: slots by id, the newest record of each slot, and which records the next commit
# will publish or withdraw.
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.shm.apps cimport Apps
from flyproxy._speedups.shm.arena cimport Arena
from flyproxy._speedups.shm.draft cimport Draft
from flyproxy._speedups.shm.hosts cimport Hosts
from flyproxy._speedups.shm.idpool cimport IdPool
from flyproxy._speedups.shm.names cimport Names
from flyproxy._speedups.shm.room cimport Room
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.table cimport TMachine, Table

cdef class Machines:
    cdef Shm *shm
    cdef Arena *arena
    cdef Apps apps
    cdef Hosts hosts
    cdef Names ids              # of a mesh's machines -> slot, as readers find them
    cdef Room room
    cdef IdPool slots
    cdef dict by_id             # machine id -> slot
    cdef Table *former          # the table that was active when this one was begun
    cdef dict former_ids        # id -> slot there, until the first commit
    cdef list dirty
    cdef uint32_t *records      # per slot: block of the newest record, 0: none
    cdef uint8_t *marks         # per slot: LISTED in dirty, UNSEEN: the newest record is not published

    cdef open(self, Arena *arena, Apps apps, Hosts hosts, Names ids, Table *former)
    cdef close(self)
    cdef TMachine *record(self, uint32_t slot)
    # `record`: all but slot, generation, app and host_slot filled. Raises TableFull, and then nothing changed.
    cdef put(self, bytes id, Draft *draft, TMachine *record)
    cdef remove(self, bytes id)
    cdef forget(self, bytes id)     # readers do not find it by its id any more
    cdef new_slot(self, bytes id, Draft *draft, bint replaces)
    cdef withdraw(self, uint32_t slot)
    cdef stage(self, uint32_t slot, uint32_t ref)
    cdef follow(self)           # to where their hosts are now
    # The steps of a commit: new records before the lists that name them, removed ones after. build raises TableFull,
    # and then nothing is published.
    cdef build(self)
    cdef publish(self, uint8_t *base)
    cdef unpublish(self, uint8_t *base)
