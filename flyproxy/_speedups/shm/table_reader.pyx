# The VM table for Python: whole records, copied out.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.shm.budget cimport BK_INFLIGHT, budget_sum
from flyproxy._speedups.shm.platform cimport fp_load_u64
from flyproxy._speedups.shm.segments cimport NOBODY, Shm, shm_attach, shm_unmap
from flyproxy._speedups.shm.table cimport (
    ADDR_SHARED, ADDR_UNKNOWN, BAL_LEAST, CT_REQUESTS, H_HTTP, H_PG_TLS, H_PROXY_PROTO, H_TLS, HOST_PORTS_MAX,
    HOSTS_MAX, ROLE_EDGE, ROLE_WORKER, THost, TApp, TMachine, TPort, TService, Table, table_address,
    table_app_by_host, table_app_by_id, table_candidates, table_enter, table_host, table_init, table_mark,
    table_recycled, table_service, table_slot,
)
from flyproxy._speedups.shm.table_blocks cimport Parts, parts_of
from flyproxy._speedups.shm.table_layout cimport TableHeader

cdef enum:
    TRIES = 1000                # times that memory may be reused under a look-up before it gives up

HEALTH = ("unknown", "passing", "critical")
HANDLERS = {"http": H_HTTP, "tls": H_TLS, "proxy_proto": H_PROXY_PROTO, "pg_tls": H_PG_TLS}
ROLES = {"edge": ROLE_EDGE, "worker": ROLE_WORKER}


cdef class TableReader:
    """The VM table for control and tests: whole records, copied out. Needs no process index: every record is read again
    when memory was reused meanwhile. `fds`: {segment name: descriptor}, read-only ones are enough."""
    cdef Shm shm
    cdef Table table

    def __cinit__(self, dict fds):
        shm_attach(&self.shm, fds, 0, NOBODY)
        table_init(&self.table, &self.shm)

    def __dealloc__(self):
        shm_unmap(&self.shm)

    cdef whole(self, copy, argument):
        """The result of `copy` made while nothing it may have looked at was reused."""
        cdef uint64_t mark
        cdef int _try
        for _try in range(TRIES):
            mark = table_mark(&self.table)
            table_enter(&self.table)
            result = copy(argument)
            if not table_recycled(&self.table, mark):
                return result
        raise TimeoutError(f"the table changed under {TRIES} tries to read one record; try again")

    @property
    def revision(self):
        """Revision of the state store that is published."""
        table_enter(&self.table)
        return self.table.revision

    @property
    def generation(self):
        """Commits so far; 0: nothing is published yet."""
        table_enter(&self.table)
        return self.table.generation

    @property
    def published_ns(self):
        """CLOCK_MONOTONIC of the last commit, 0 before the first."""
        table_enter(&self.table)
        return fp_load_u64(&(<const TableHeader *>self.table.base).published_ns)

    def usage(self):
        """Bytes `used`, bytes `waiting` for readers, changes `refused` for want of room, and the published numbers of
        `apps`, `hostnames`, `addresses`, `machines` and `hosts`."""
        table_enter(&self.table)
        cdef const TableHeader *header = <const TableHeader *>self.table.base
        return {
            "used": header.arena_used, "waiting": header.retired, "refused": header.refused,
            "apps": header.napps, "hostnames": header.nhostnames, "addresses": header.naddresses,
            "machines": header.nmachines, "hosts": header.nhosts,
        }

    def lookup_host(self, str host):
        """Name of the app that a host (lower case, no port) belongs to, or None."""
        return self.whole(self._host, host.encode())

    def lookup_address(self, bytes ip16):
        """Name of the app that owns a 16-byte address, "" when all apps share it, None when nobody does."""
        if len(ip16) != 16:
            raise ValueError(f"address has {len(ip16)} bytes; it must have 16 (v4 as v4-mapped)")
        return self.whole(self._address, ip16)

    def apps(self):
        """Every app as {name, id, generation, machines, routable, services: [{internal_port, id, …, ports: […]}]}."""
        found = (self.whole(self._app, id) for id in range(self.shm.sizes.apps))
        return [app for app in found if app is not None]

    def machines(self):
        """Every machine as {id, app, address (16 bytes), port, region, host, health, cordoned, slot, generation,
        in_flight}."""
        cdef uint32_t n
        table_enter(&self.table)
        n = min((<const TableHeader *>self.table.base).machine_ids, self.shm.sizes.machines)
        found = (self.whole(self._machine, slot) for slot in range(n))
        return [machine for machine in found if machine is not None]

    def hosts(self):
        """Every host as {slot, id, region, address (16 bytes), ports, epoch, roles, tls}."""
        cdef uint32_t n
        table_enter(&self.table)
        n = min((<const TableHeader *>self.table.base).host_ids, <uint32_t>HOSTS_MAX)
        found = (self.whole(self._one_host, slot) for slot in range(n))
        return [host for host in found if host is not None]

    # Copies, each for `whole`.
    def _host(self, bytes host):
        cdef const TApp *app = table_app_by_host(&self.table, host, <uint32_t>min(len(host), 255))
        return text(app.name, app.name_n, 64) if app != NULL else None

    def _address(self, bytes ip16):
        cdef const TApp *app
        cdef int kind = table_address(&self.table, <const uint8_t *><const char *>ip16, &app)
        return {ADDR_UNKNOWN: None, ADDR_SHARED: ""}[kind] if app == NULL else text(app.name, app.name_n, 64)

    def _app(self, uint32_t id):
        cdef const TApp *app = table_app_by_id(&self.table, id)
        cdef const TService *first
        cdef Parts parts
        cdef uint32_t i
        if app == NULL or not parts_of(&self.table, app, &parts):
            return None
        services = [self._service(app, &parts, i) for i in range(parts.nservices)]
        for i in range(parts.nports):
            number = parts.ports[i].service
            if number < len(services):
                services[number]["ports"].append(port_record(&parts.ports[i]))
        first = table_service(&self.table, app, 0)
        return {
            "name": text(app.name, app.name_n, 64), "id": id, "generation": app.generation, "services": services,
            "machines": first.total if first != NULL else 0, "routable": first.routable if first != NULL else 0,
        }

    cdef dict _service(self, const TApp *app, const Parts *parts, uint32_t i):
        cdef const TService *s = table_service(&self.table, app, i)
        cdef uint32_t rank, n, k
        cdef const uint32_t *slots
        if s == NULL:
            return {"ports": []}
        regions = []
        for rank in range(parts.nregions):
            slots = table_candidates(&self.table, s, rank, &n)
            if slots != NULL:
                regions.append((text(parts.regions[rank].name, 16, 16).rstrip("\0"), [slots[k] for k in range(n)]))
        return {
            "id": s.id, "generation": s.generation, "internal_port": s.internal_port,
            "concurrency": "requests" if s.concurrency == CT_REQUESTS else "connections",
            "soft_limit": s.soft_limit, "hard_limit": s.hard_limit,
            "balance": "least" if s.balance == BAL_LEAST else "hash", "key": text(s.key, s.key_n, 64),
            "half_close": bool(s.half_close), "regions": regions, "ports": [],
        }

    def _machine(self, uint32_t slot):
        cdef const TMachine *m = table_slot(&self.table, slot)
        cdef const TApp *app = table_app_by_id(&self.table, m.app) if m != NULL else NULL
        if m == NULL:
            return None
        return {
            "id": text(m.id, m.id_n, 40), "app": text(app.name, app.name_n, 64) if app != NULL else None,
            "address": m.address[:16], "port": m.port,
            "region": text(m.region, m.region_n, 16), "host": text(m.host, m.host_n, 32),
            "health": HEALTH[min(m.health, <uint8_t>2)],
            "cordoned": bool(m.cordoned), "slot": slot,
            "generation": m.generation, "in_flight": budget_sum(&self.shm, BK_INFLIGHT, slot),
        }

    def _one_host(self, uint32_t slot):
        cdef const THost *h = table_host(&self.table, slot)
        cdef uint32_t i
        if h == NULL:
            return None
        return {
            "slot": slot, "id": text(h.id, h.id_n, 32), "region": text(h.region, h.region_n, 16),
            "address": h.address[:16], "ports": [h.ports[i] for i in range(min(h.nports, <uint16_t>HOST_PORTS_MAX))],
            "epoch": h.epoch, "roles": [name for name, bit in ROLES.items() if h.roles & bit], "tls": bool(h.tls),
        }


cdef str text(const char *p, uint32_t n, uint32_t cap):
    """At most `cap` characters, whatever the count says."""
    return p[:min(n, cap)].decode("ascii", "replace")


cdef dict port_record(const TPort *port):
    return {
        "start": port.start, "end": port.end,
        "handlers": [name for name, bit in HANDLERS.items() if port.handlers & bit],
        "force_https": bool(port.force_https), "pristine": bool(port.pristine),
        "h2_backend": bool(port.h2_backend), "proxy_version": port.proxy_version,
        "idle_timeout_ms": port.idle_timeout_ms, "headers_read_timeout_ms": port.head_timeout_ms,
    }
