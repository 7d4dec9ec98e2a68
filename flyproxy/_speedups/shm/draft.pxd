# An app as the writer keeps it between commits: what was declared, and which of its machines can be routed to, by
# region. draft_build makes the blocks that readers see; draft_publish flips them in; nothing here is shared.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.arena cimport Arena
from flyproxy._speedups.shm.ring cimport Ring
from flyproxy._speedups.shm.table cimport TMachine, TPort, TService
from flyproxy._speedups.shm.table_layout cimport DirEntry

cdef struct Region:             # with at least one routable machine
    char name[16]
    uint32_t distance           # 0 own, then the place in the order given, NOBODY: not in it
    uint32_t *slots
    uint32_t n
    uint32_t cap
    uint32_t list               # published block, 0: none
    uint32_t next               # built and not yet published
    int changed

cdef struct Draft:
    uint32_t id
    uint32_t generation
    uint32_t refs               # hostnames, addresses and machines that name the app
    uint32_t name_n
    char name[64]
    int declared                # put_app was called: visible to readers
    int dirty                   # to be built anew at the next commit
    int hashes                  # a service wants the ring
    int ring_changed            # since the last publication
    uint32_t total              # machines
    uint32_t routable
    uint32_t nports
    uint32_t nservices
    uint32_t nregions
    uint32_t block              # published, 0: none
    uint32_t next_block
    uint32_t ring_block
    uint32_t next_ring
    TPort *ports                # malloc
    TService *services
    Region *regions             # nearest first
    Ring ring                   # of regions[0], when `hashes`

cdef struct Drafting:           # what building needs to know of the writer
    Arena *arena
    const uint64_t *key
    const char *own_region      # 16 bytes, zero-filled
    const char *order           # regions nearest first, 16 bytes each
    uint32_t order_n
    const uint32_t *records     # newest record of each machine slot
    uint32_t *gone              # unpublished by the next commit: blocks to retire then
    uint32_t gone_n
    uint32_t gone_cap

# -1: no memory, nothing changed. `routable` 0: the machine only counts.
cdef int draft_add_machine(Draft *draft, Drafting *with_, const TMachine *machine, int routable) noexcept nogil
cdef void draft_remove_machine(Draft *draft, Drafting *with_, const TMachine *machine, int routable) noexcept nogil
# Puts the regions into the order given. 1: they were in another, and the app is to be built anew; -1: no memory.
cdef int draft_reorder(Draft *draft, Drafting *with_) noexcept nogil
# Makes the ring what the nearest region's list says. -1: no memory.
cdef int draft_reset_ring(Draft *draft, Drafting *with_) noexcept nogil
# -1: the arena is full, nothing kept.
cdef int draft_build(Draft *draft, Drafting *with_) noexcept nogil
cdef void draft_discard(Draft *draft, Drafting *with_) noexcept nogil
cdef void draft_publish(Draft *draft, Drafting *with_, DirEntry *entry) noexcept nogil
cdef void draft_free(Draft *draft) noexcept nogil
# Notes a published block for arena_retire. -1: no memory.
cdef int draft_gone(Drafting *with_, uint32_t ref) noexcept nogil
