# Walking through the blocks of a table segment: every reference and every count is checked against the segment, since
# what lies there is input. Inline, for table.pyx and table_reader.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from flyproxy._speedups.shm.index cimport block_at
from flyproxy._speedups.shm.platform cimport fp_load_u32
from flyproxy._speedups.shm.table cimport TApp, TPort, TService, Table
from flyproxy._speedups.shm.table_layout cimport (
    NAME_MAX, PORTS_MAX, REGIONS_MAX, SERVICES_MAX, AppTail, RegionRef, ServiceTail,
)

cdef inline const uint8_t *block(Table *t, uint32_t ref, uint64_t bytes) noexcept nogil:
    return block_at(t.base, t.size, ref, bytes)

cdef inline const AppTail *tail_of(const TApp *app) noexcept nogil:
    return <const AppTail *>(app + 1)

cdef struct Parts:              # of an app's block; counts were read once and hold for the pointers
    const RegionRef *regions
    const TPort *ports
    const uint8_t *services
    uint32_t nregions
    uint32_t nports
    uint32_t nservices

cdef inline int parts_of(Table *t, const TApp *app, Parts *out) noexcept nogil:
    """1 when all parts lie within the segment and no count is absurd. Each count is read once: who checks one
    reading and uses another is led outside by whatever changes in between."""
    cdef const AppTail *tail = tail_of(app)
    cdef uint64_t need = sizeof(TApp) + sizeof(AppTail)
    out.nregions = fp_load_u32(&tail.nregions)
    out.nports = fp_load_u32(&tail.nports)
    out.nservices = fp_load_u32(&app.nservices)
    if out.nregions > REGIONS_MAX or out.nports > PORTS_MAX or out.nservices > SERVICES_MAX:
        return 0
    need += out.nregions * sizeof(RegionRef) + out.nports * sizeof(TPort)
    need += out.nservices * (sizeof(TService) + sizeof(ServiceTail))
    out.regions = <const RegionRef *>(tail + 1)
    out.ports = <const TPort *>(out.regions + out.nregions)
    out.services = <const uint8_t *>(out.ports + out.nports)
    return need <= t.size - (<const uint8_t *>app - t.base)

cdef inline const TService *service_in(const Parts *parts, uint32_t i) noexcept nogil:
    return <const TService *>(parts.services + i * (sizeof(TService) + sizeof(ServiceTail)))

cdef inline const TApp *app_at(Table *t, uint32_t ref) noexcept nogil:
    """The app whose block is at `ref`, if there is one with a name."""
    cdef const TApp *app = <const TApp *>block(t, ref, sizeof(TApp) + sizeof(AppTail))
    cdef uint32_t name_n
    cdef Parts parts
    if app == NULL or not parts_of(t, app, &parts):
        return NULL
    name_n = fp_load_u32(&app.name_n)
    return app if name_n <= NAME_MAX and app.name[name_n] == 0 else NULL
