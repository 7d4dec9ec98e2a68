# The hosts of the mesh as the writer keeps them: slots by id, and which records the next commit will publish or
# withdraw.
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.shm.arena cimport Arena
from flyproxy._speedups.shm.idpool cimport IdPool
from flyproxy._speedups.shm.room cimport Room
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.table cimport THost, Table

cdef class Hosts:
    cdef Shm *shm
    cdef Arena *arena
    cdef Room room
    cdef bytes own              # this host's id
    cdef bint mesh              # machines of other hosts are reached through those
    cdef IdPool slots
    cdef dict by_id             # host id -> slot
    cdef dict former_ids        # id -> slot in the former table, until the first commit
    cdef dict staged            # slot -> block, 0: to be withdrawn
    cdef bint moved             # since the last commit an id has got a slot or lost it: its machines follow

    cdef open(self, Arena *arena, Room room, Table *former)
    cdef close(self)
    # TMachine.host_slot of a machine on the host with this id (b"": none).
    cdef uint32_t slot_of(self, bytes id)
    # `record`: all but slot and generation filled. Raises TableFull, and then nothing changed.
    cdef put(self, bytes id, THost *record)
    cdef remove(self, bytes id)
    cdef new_slot(self, bytes id)
    cdef stage(self, uint32_t slot, uint32_t ref)
    # The steps of a commit: new records before the machines that name them, removed ones after.
    cdef publish(self, uint8_t *base)
    cdef unpublish(self, uint8_t *base)
