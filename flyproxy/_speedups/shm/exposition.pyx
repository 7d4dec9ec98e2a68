# One pass over the apps and one over the machines; each family collects its lines in a buffer of its own, since the
# format wants the lines of a family together.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset, strlen
from flyproxy._speedups.shm.budget cimport BK_INFLIGHT, budget_sum
from flyproxy._speedups.shm.counters cimport BUCKETS, StatusSeries
from flyproxy._speedups.shm.platform cimport FP_BUCKETS_LE, FP_FAMILIES, fp_load_u32
from flyproxy._speedups.shm.sums cimport (
    Areas, AppSum, HttpSum, MachineSum, bucket_total, sum_app, sum_machine, sum_overflow, sums_open,
)
from flyproxy._speedups.shm.table cimport (
    TApp, TMachine, Table, table_app_by_id, table_enter, table_init, table_mark, table_recycled, table_slot,
)
from flyproxy._speedups.shm.table_layout cimport TableHeader
from flyproxy._speedups.shm.text cimport text_decimal, text_free, text_label, text_put, text_str

cdef enum:                      # Family, in the order of FP_FAMILIES
    EDGE_RESPONSES = 0
    EDGE_TIME
    EDGE_CONNECTS
    EDGE_DISCONNECTS
    EDGE_IN
    EDGE_OUT
    EDGE_DROPS
    LOG_DROPPED
    APP_CONCURRENCY
    APP_RESPONSES
    APP_TIME
    APP_CONNECT_TIME
    APP_CONNECTS
    APP_DISCONNECTS
    FAMILIES
    TRIES = 1000                # readings of one record that memory may be reused under

cdef struct Page:
    Shm *shm
    Table table
    Areas areas
    Text family[FAMILIES]
    Text labels                 # of the series being written, without braces
    const char *region
    const char *host
    AppSum app
    MachineSum machine
    TApp app_record             # copies, whole
    TMachine machine_record


# -- whole copies of what the writer may be replacing
cdef int copy_app(Page *page, uint32_t id) noexcept nogil:
    cdef const TApp *app
    cdef uint64_t mark
    cdef int _try
    for _try in range(TRIES):
        mark = table_mark(&page.table)
        table_enter(&page.table)
        app = table_app_by_id(&page.table, id)
        if app != NULL:
            page.app_record = app[0]
        if not table_recycled(&page.table, mark):
            return app != NULL
    return 0


cdef int copy_machine(Page *page, uint32_t slot) noexcept nogil:
    cdef const TMachine *machine
    cdef uint64_t mark
    cdef int _try
    for _try in range(TRIES):
        mark = table_mark(&page.table)
        table_enter(&page.table)
        machine = table_slot(&page.table, slot)
        if machine != NULL:
            page.machine_record = machine[0]
        if not table_recycled(&page.table, mark):
            return machine != NULL
    return 0


# -- lines
cdef void put_label(Text *out, const char *name, const char *value, uint32_t n) noexcept nogil:
    if out.n:
        text_put(out, b",", 1)
    text_str(out, name)
    text_put(out, b"=\"", 2)
    text_label(out, value, n)
    text_put(out, b"\"", 1)


cdef void begin(Page *page, int family, const char *suffix) noexcept nogil:
    """`name_suffix{labels`, still open for more labels."""
    text_str(&page.family[family], FP_FAMILIES[family].name)
    text_str(&page.family[family], suffix)
    text_put(&page.family[family], b"{", 1)
    text_put(&page.family[family], page.labels.p, page.labels.n)


cdef void put_status(Text *out, uint16_t status) noexcept nogil:
    text_str(out, b",status=\"")
    if status:
        text_decimal(out, status, 3)
    else:
        text_str(out, b"other")
    text_put(out, b"\"", 1)


cdef void end(Text *out, uint64_t value) noexcept nogil:
    text_put(out, b"} ", 2)
    text_decimal(out, value, 1)
    text_put(out, b"\n", 1)


cdef void put_value(Page *page, int family, uint64_t value) noexcept nogil:
    begin(page, family, b"")
    end(&page.family[family], value)


cdef void put_histogram(Page *page, int family, int status, const uint64_t *buckets, uint64_t sum_us) noexcept nogil:
    """`status` below 0: no such label."""
    cdef Text *out = &page.family[family]
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(BUCKETS + 1):
        total += buckets[i]
        begin(page, family, b"_bucket")
        if status >= 0:
            put_status(out, <uint16_t>status)
        text_str(out, b",le=\"")
        text_str(out, FP_BUCKETS_LE[i])
        text_put(out, b"\"", 1)
        end(out, total)
    begin(page, family, b"_sum")
    if status >= 0:
        put_status(out, <uint16_t>status)
    text_put(out, b"} ", 2)
    text_decimal(out, sum_us // 1000000, 1)
    text_put(out, b".", 1)
    text_decimal(out, sum_us % 1000000, 6)
    text_put(out, b"\n", 1)
    begin(page, family, b"_count")
    if status >= 0:
        put_status(out, <uint16_t>status)
    end(out, total)


cdef void put_http(Page *page, int responses, int time, const HttpSum *http) noexcept nogil:
    cdef const StatusSeries *series
    cdef uint32_t i
    for i in range(http.n):
        series = &http.series[i]
        begin(page, responses, b"")
        put_status(&page.family[responses], http.status[i])
        end(&page.family[responses], bucket_total(series.buckets))
        put_histogram(page, time, http.status[i], series.buckets, series.sum_us)


# -- apps and machines
cdef void put_app(Page *page, const char *name, uint32_t name_n) noexcept nogil:
    cdef const AppSum *sum = &page.app
    page.labels.n = 0
    put_label(&page.labels, b"app", name, name_n)
    put_value(page, LOG_DROPPED, sum.log_dropped)
    put_label(&page.labels, b"region", page.region, <uint32_t>strlen(page.region))
    put_label(&page.labels, b"host", page.host, <uint32_t>strlen(page.host))
    put_value(page, EDGE_CONNECTS, sum.connects)
    put_value(page, EDGE_DISCONNECTS, sum.disconnects)
    put_value(page, EDGE_IN, sum.data_in)
    put_value(page, EDGE_OUT, sum.data_out)
    put_value(page, EDGE_DROPS, sum.dropped)
    put_http(page, EDGE_RESPONSES, EDGE_TIME, &sum.http)


cdef void put_machine(Page *page, const char *app, uint32_t app_n, const TMachine *machine) noexcept nogil:
    cdef const MachineSum *sum = &page.machine
    page.labels.n = 0
    put_label(&page.labels, b"app", app, app_n)
    if machine.region_n:
        put_label(&page.labels, b"region", machine.region, machine.region_n)
    else:
        put_label(&page.labels, b"region", page.region, <uint32_t>strlen(page.region))
    if machine.host_n:
        put_label(&page.labels, b"host", machine.host, machine.host_n)
    else:
        put_label(&page.labels, b"host", page.host, <uint32_t>strlen(page.host))
    put_label(&page.labels, b"instance", machine.id, machine.id_n)
    put_value(page, APP_CONNECTS, sum.connects)
    put_value(page, APP_DISCONNECTS, sum.disconnects)
    if bucket_total(sum.connect_buckets):
        put_histogram(page, APP_CONNECT_TIME, -1, sum.connect_buckets, sum.connect_sum_us)
    put_http(page, APP_RESPONSES, APP_TIME, &sum.http)


cdef void put_apps(Page *page) noexcept nogil:
    cdef uint32_t ids = min(fp_load_u32(&(<const TableHeader *>page.table.base).app_ids), page.shm.sizes.apps)
    cdef uint32_t id
    for id in range(ids):
        if copy_app(page, id) and sum_app(&page.areas, id, page.app_record.generation, &page.app):
            put_app(page, page.app_record.name, page.app_record.name_n)


cdef void put_machines(Page *page) noexcept nogil:
    cdef uint32_t slots = min(fp_load_u32(&(<const TableHeader *>page.table.base).machine_ids), page.shm.sizes.machines)
    cdef uint32_t slot
    for slot in range(slots):
        if (copy_machine(page, slot) and sum_machine(&page.areas, slot, page.machine_record.generation, &page.machine)
                and copy_app(page, page.machine_record.app)):
            put_machine(page, page.app_record.name, page.app_record.name_n, &page.machine_record)
            put_value(page, APP_CONCURRENCY, budget_sum(page.shm, BK_INFLIGHT, slot))


cdef void put_overflow(Page *page) noexcept nogil:
    """What found no series of its own, under a name that no app can have."""
    sum_overflow(&page.areas, &page.app, &page.machine)
    memset(&page.machine_record, 0, sizeof(TMachine))
    if page.app.connects or page.app.http.n:
        put_app(page, b"_other", 6)
    if page.machine.connects or page.machine.http.n:
        put_machine(page, b"_other", 6, &page.machine_record)


cdef int join(Page *page, Text *out) noexcept nogil:
    cdef int family, failed = page.labels.failed
    for family in range(FAMILIES):
        failed |= page.family[family].failed
        if page.family[family].n:
            text_str(out, b"# HELP ")
            text_str(out, FP_FAMILIES[family].name)
            text_put(out, b" ", 1)
            text_str(out, FP_FAMILIES[family].help)
            text_str(out, b"\n# TYPE ")
            text_str(out, FP_FAMILIES[family].name)
            text_put(out, b" ", 1)
            text_str(out, FP_FAMILIES[family].type)
            text_put(out, b"\n", 1)
            text_put(out, page.family[family].p, page.family[family].n)
        text_free(&page.family[family])
    text_free(&page.labels)
    return -1 if failed or out.failed else 0


cdef int exposition_write(Shm *shm, const char *region, const char *host, Text *out) noexcept nogil:
    cdef Page page
    memset(&page, 0, sizeof(Page))
    page.shm = shm
    page.region = region
    page.host = host
    table_init(&page.table, shm)
    sums_open(&page.areas, shm)
    put_apps(&page)
    put_machines(&page)
    put_overflow(&page)
    return join(&page, out)
