# Which machine takes this request: pure functions over the table and the load words. No state but the caller's random
# words.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from flyproxy._speedups.shm.table cimport Table, TMachine, TService

cdef enum:
    TRIED_MAX = 8               # machines that this exchange has tried in vain

cdef enum ChooseResult:
    CHOSEN = 0
    CHOOSE_UNHEALTHY            # the service has machines, none is routable        PR01
    CHOOSE_NONE                 # no machine at all, or each was tried or is out of reach   PR04
    CHOOSE_FULL                 # every candidate is at its hard limit               PR06 after the queue

cdef struct Choose:             # in and out
    uint64_t random             # in: 64 random bits
    uint64_t key                # in: hash of the balance key (route_key); ignored for BAL_LEAST
    uint32_t ntried             # in
    uint32_t tried[TRIED_MAX]   # in: machine slots
    uint8_t down                # out: some were left out because their host looks down
    uint8_t despair             # out: and were then tried after all, for want of others
    uint32_t region             # out: rank of the region of the choice
    const TMachine *machine     # out; good until the end of the turn

# Nearest region first; inside it the better of two random ones by load (below soft limit, then below hard); BAL_HASH_*:
# consistent hashing with bounded load 1.25. On CHOSEN one unit of BK_INFLIGHT has been admitted for the machine:
# release it. A machine whose host is unknown counts as tried; one whose host looks down (closeness.pxd) is taken only
# when nobody else is left.
cdef int route_choose(Table *t, const TService *s, Choose *c) noexcept nogil
# Keyed hash (SipHash-1-3 under the cluster key in the table) of a balance key.
cdef uint64_t route_key(Table *t, const char *p, uint32_t n) noexcept nogil
# IPv6 clients hash by their /64.
cdef uint64_t route_key_address(Table *t, const unsigned char *address) noexcept nogil
