# Which apps speak on a public port: published as one word (raw_ports) and one byte (http_ports) per port number, so
# that a connection to an address that belongs to nobody, or to everybody, finds its meaning without searching.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from flyproxy._speedups.shm.table cimport TPort

cdef struct PortUse:            # the writer's; one per port number
    uint64_t raw_ids            # sum of (app id + 1): with one user it is that user
    uint32_t raw_users
    uint32_t http_users

cdef struct PortRange:
    uint32_t start
    uint32_t end

cdef struct Ports:
    PortUse *use                # 65 536
    PortRange *dirty            # to be published
    uint32_t dirty_n
    uint32_t dirty_cap

# -1: no memory.
cdef int ports_open(Ports *ports) noexcept nogil
cdef void ports_close(Ports *ports) noexcept nogil
# Counts an app's ports in (sign 1) or out (-1).
cdef int ports_count(Ports *ports, uint32_t app, const TPort *list, uint32_t n, int sign) noexcept nogil
cdef void ports_publish(Ports *ports, uint32_t *raw, unsigned char *http) noexcept nogil
