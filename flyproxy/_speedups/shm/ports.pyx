from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from flyproxy._speedups.shm.platform cimport fp_store_u32
from flyproxy._speedups.shm.segments cimport NOBODY
from flyproxy._speedups.shm.table cimport H_HTTP, H_PG_TLS, H_TLS


cdef int ports_open(Ports *ports) noexcept nogil:
    memset(ports, 0, sizeof(Ports))
    ports.use = <PortUse *>calloc(65536, sizeof(PortUse))
    return 0 if ports.use != NULL else -1


cdef void ports_close(Ports *ports) noexcept nogil:
    free(ports.use)
    free(ports.dirty)
    memset(ports, 0, sizeof(Ports))


cdef int mark_dirty(Ports *ports, uint32_t start, uint32_t end) noexcept nogil:
    cdef uint32_t cap
    cdef PortRange *dirty
    if ports.dirty_n == ports.dirty_cap:
        cap = max(ports.dirty_cap * 2, <uint32_t>16)
        dirty = <PortRange *>realloc(ports.dirty, cap * sizeof(PortRange))
        if dirty == NULL:
            return -1
        ports.dirty = dirty
        ports.dirty_cap = cap
    ports.dirty[ports.dirty_n].start = start
    ports.dirty[ports.dirty_n].end = end
    ports.dirty_n += 1
    return 0


cdef int ports_count(Ports *ports, uint32_t app, const TPort *list, uint32_t n, int sign) noexcept nogil:
    cdef uint32_t i, port
    cdef int raw, http
    for i in range(n):
        http = list[i].handlers & H_HTTP != 0
        raw = list[i].handlers & (H_HTTP | H_TLS | H_PG_TLS) == 0
        if mark_dirty(ports, list[i].start, list[i].end) < 0:
            return -1
        for port in range(<uint32_t>list[i].start, <uint32_t>list[i].end + 1):
            ports.use[port].raw_ids += sign * raw * (<long long>app + 1)
            ports.use[port].raw_users += sign * raw
            ports.use[port].http_users += sign * http
    return 0


cdef void ports_publish(Ports *ports, uint32_t *raw, unsigned char *http) noexcept nogil:
    cdef uint32_t i, port
    cdef PortUse *use
    for i in range(ports.dirty_n):
        for port in range(ports.dirty[i].start, ports.dirty[i].end + 1):
            use = &ports.use[port]
            if use.raw_users > 1:
                fp_store_u32(&raw[port], NOBODY)
            else:
                fp_store_u32(&raw[port], <uint32_t>use.raw_ids)     # of nobody: 0
            http[port] = use.http_users != 0
    ports.dirty_n = 0
