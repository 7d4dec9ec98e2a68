# The apps as the writer keeps them: ids by name, drafts by id, and what the next commit will change. An app exists as
# long as it is declared or something names it; only declared ones are published, so records may come in any order.
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.shm.draft cimport Draft, Drafting
from flyproxy._speedups.shm.idpool cimport IdPool
from flyproxy._speedups.shm.ports cimport Ports
from flyproxy._speedups.shm.room cimport Room
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.spec cimport Spec
from flyproxy._speedups.shm.table cimport Table

cdef class Apps:
    cdef Shm *shm
    cdef Room room
    cdef Drafting drafting
    cdef IdPool ids
    cdef IdPool service_ids
    cdef Ports ports
    cdef Draft *drafts          # by id
    cdef dict by_name           # name -> id
    cdef Table *former          # the table that was active when this one was begun
    cdef dict former_names      # name -> id there, until the first commit
    cdef uint32_t declared      # apps that are, and so are published by the next commit
    cdef list dirty_ids
    cdef list gone_services     # service ids to give back at the next commit

    cdef open(self, Shm *shm, Room room, Table *former)
    cdef close(self)
    # The draft of a name, made when it is not there: then the next commit looks at it, and drops it if nothing came of
    # it.
    cdef Draft *of(self, bytes name) except NULL
    # To be built anew by the next commit.
    cdef Draft *dirty(self, uint32_t id)
    # How many hostnames, addresses and machines name the app (NOBODY: none).
    cdef count_ref(self, uint32_t id, int sign)
    cdef bint was(self, Draft *draft)   # 1: the former table had this app under the same id
    cdef declare(self, bytes name, list services)
    cdef hide(self, bytes name)
    # Another order of the regions (drafting.order) for every app.
    cdef reorder(self)
    cdef assign_services(self, Draft *draft, Spec *spec)
    cdef dict services_of(self, Draft *draft)
    # The steps of a commit. build raises TableFull, and then nothing is built.
    cdef build(self)
    cdef publish(self, uint8_t *base)
    cdef collect(self)
