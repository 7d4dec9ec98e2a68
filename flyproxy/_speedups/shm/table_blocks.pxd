# Walking through the blocks of a table segment: every reference and every count is checked against the segment, since what
# lies there is input. Inline, for table.pyx and table_reader.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from flyproxy._speedups.shm.index cimport block_at
from flyproxy._speedups.shm.table cimport TApp, TPort, TService, Table
from flyproxy._speedups.shm.table_layout cimport (
    NAME_MAX, PORTS_MAX, REGIONS_MAX, SERVICES_MAX, AppTail, RegionRef, ServiceTail,
)

cdef inline const uint8_t *block(Table *t, uint32_t ref, uint64_t bytes) noexcept nogil:
    return block_at(t.base, t.size, ref, bytes)

cdef inline const AppTail *tail_of(const TApp *app) noexcept nogil:
    return <const AppTail *>(app + 1)

cdef inline int app_whole(Table *t, const TApp *app) noexcept nogil:
    """1 when all parts of the block lie within the segment and no count is absurd."""
    cdef const AppTail *tail = tail_of(app)
    cdef uint64_t need = sizeof(TApp) + sizeof(AppTail)
    if tail.nregions > REGIONS_MAX or tail.nports > PORTS_MAX or app.nservices > SERVICES_MAX or app.name_n > NAME_MAX:
        return 0
    need += tail.nregions * sizeof(RegionRef) + tail.nports * sizeof(TPort)
    need += app.nservices * (sizeof(TService) + sizeof(ServiceTail))
    return app.name[app.name_n] == 0 and need <= t.size - (<const uint8_t *>app - t.base)

cdef inline const TApp *app_at(Table *t, uint32_t ref) noexcept nogil:
    cdef const TApp *app = <const TApp *>block(t, ref, sizeof(TApp) + sizeof(AppTail))
    return app if app != NULL and app_whole(t, app) else NULL

cdef inline const RegionRef *regions_of(const TApp *app) noexcept nogil:
    return <const RegionRef *>(tail_of(app) + 1)

cdef inline const TPort *ports_of(const TApp *app) noexcept nogil:
    return <const TPort *>(regions_of(app) + tail_of(app).nregions)

cdef inline const TService *service_of(const TApp *app, uint32_t i) noexcept nogil:
    return <const TService *>(<const uint8_t *>(ports_of(app) + tail_of(app).nports)
                              + i * (sizeof(TService) + sizeof(ServiceTail)))
