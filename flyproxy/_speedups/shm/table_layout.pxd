# The structs inside the table and load segments that only this package looks at. docs/shared-memory.md draws them in
# bytes.
#
# A reference (`ref`) is an offset in granules of 64 bytes from the start of its table segment; 0 is "none". Blocks are
# immutable once a reference to them is published. The only words that change in place are the references themselves
# (one aligned store each), raw_ports and http_ports, and the numbers in the header.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    GRANULE = 64
    HEADER_BYTES = 4096
    PORTS_MAX = 1024            # ports (ranges) of one app
    SERVICES_MAX = 256          # services of one app
    REGIONS_MAX = 256           # regions in which one app has machines
    NAME_MAX = 63               # bytes of an app's name
    HOST_MAX = 253              # bytes of a host name (RFC 1035 2.3.4, in text form)
    SLOT_BITS = 24              # of a ring point; the bits above are the hash
    REF_EMPTY = 0               # IndexSlot.ref: never used, a probe ends here
    REF_GONE = 1                # IndexSlot.ref: a key was removed, a probe goes on

cdef struct TableHeader:        # at offset 0
    uint64_t magic
    uint64_t key[2]             # of SipHash: names, addresses, ring points, balance keys
    uint64_t revision
    uint64_t generation
    uint64_t published_ns       # CLOCK_MONOTONIC of the last commit
    uint64_t hosts              # index word: reference | log2(slots) << 32; one store flips the whole index
    uint64_t addresses          # likewise
    uint64_t machines           # likewise: ids of machines, in a mesh
    uint32_t wildcards          # host names that begin with "*."
    uint32_t app_ids            # directory entries in use are below these
    uint32_t machine_ids
    uint32_t service_ids
    uint32_t napps              # published, for status pages
    uint32_t nhostnames
    uint32_t naddresses
    uint32_t nmachines
    uint32_t host_ids
    uint32_t nhosts
    uint64_t arena_used         # bytes
    uint64_t retired            # bytes that wait for readers
    uint64_t refused            # changes refused with TableFull since the segment was built

cdef struct DirEntry:           # app_dir, machine_dir, host_dir; service_dir: ref is the app id + 1
    uint32_t ref
    uint32_t generation         # the writer's note, for the next writer

cdef struct IndexSlot:          # open addressing, linear probing, at most half full
    uint64_t hash
    uint32_t ref                # KeyBlock, REF_EMPTY or REF_GONE
    uint32_t pad

cdef struct KeyBlock:           # a host name, a 16-byte address or a machine's id
    uint32_t value              # app id, NOBODY: shared by every app that has a hostname; of a machine its slot
    uint32_t n
    char key[1]                 # n bytes

cdef struct RegionRef:
    uint32_t list               # reference of uint32_t slots[n]
    uint32_t n
    char name[16]

# An app's block: TApp, AppTail, RegionRef[nregions], TPort[nports], (TService, ServiceTail)[nservices].
cdef struct AppTail:
    uint32_t bytes              # of the whole block
    uint32_t nregions           # with a routable machine, nearest first
    uint32_t nports             # sorted by start, never overlapping
    uint32_t ring               # reference of uint64_t points[ring_n] of region 0, or 0
    uint32_t ring_n

cdef struct ServiceTail:
    uint32_t app                # reference of the block around it
    uint8_t pad[24]             # service and tail: 128 bytes

cdef struct Wait:               # load segment: who waits for a unit of a full service
    uint64_t mask               # process indexes
    uint32_t last               # the one woken last
    uint32_t pad
