# The one writer of the VM table: TableWriter takes records in any order and publishes them with commit.
#
# Until commit nothing is visible. put_* and remove_* prepare blocks that no reader has seen (so giving them back needs
# no grace period) and note what changed; commit first builds every block that it needs, the only step that can fail,
# then flips references, then raises revision and generation, begins a new epoch and wakes the engines.
cimport cython

import time
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from flyproxy._speedups.shm.apps cimport Apps
from flyproxy._speedups.shm.arena cimport Arena, arena_close, arena_open, arena_recycle
from flyproxy._speedups.shm.checks cimport (
    address_bytes, app_bytes, fill_host, fill_machine, host_bytes, region_bytes,
)
from flyproxy._speedups.shm.grace cimport grace_advance, grace_announce_reuse, grace_oldest
from flyproxy._speedups.shm.hosts cimport Hosts
from flyproxy._speedups.shm.machines cimport Machines
from flyproxy._speedups.shm.names cimport Names
from flyproxy._speedups.shm.platform cimport (
    fp_acquire_u32, fp_load_u32, fp_load_u64, fp_lowest_bit, fp_monotonic_ns, fp_punch, fp_release_u32,
    fp_release_u64, fp_store_u32, fp_store_u64,
)
from flyproxy._speedups.shm.room cimport Room
from flyproxy._speedups.shm.segments cimport (
    NOBODY, SEG_LOAD, SEG_ROOT, SEG_TABLE0, SEG_TABLE1, Shm, shm_attach, shm_live, shm_unmap, shm_wake,
)
from flyproxy._speedups.shm.table cimport THost, TMachine, Table, table_init
from flyproxy._speedups.shm.table_layout cimport KeyBlock, TableHeader
from flyproxy._speedups.shm.room import TableFull  # no-cython-lint: part of the door

READERS_WAIT_S = 5.0            # longer than the master lets a stuck worker live


# Its end gives C memory back through its parts, which the garbage collector must not have emptied before.
@cython.no_gc_clear
cdef class TableWriter:
    """Publishes the VM table. One living instance per set of segments: the former state process is dead before.

    `fds`: {segment name: descriptor}, "root", "table0", "table1" and "load" opened for writing. `wake_fds`: {process
    index: eventfd}. `region`, `host`: this host's; the own region is the nearest one. `hash_key`: 16 bytes, the
    cluster's, so that all edges agree on consistent hashing. `mesh`: machines of other hosts are reached through those;
    without it every machine is at its own address. Call reset() before anything else. Records may come in any order;
    what names an app or a host that is not there shows when that comes."""
    cdef Shm shm
    cdef Arena arena
    cdef Room room
    cdef Apps apps
    cdef Machines machines
    cdef Hosts hosts
    cdef Names hostnames
    cdef Names addresses
    cdef Names ids                  # of a mesh's machines
    cdef Table former               # as it was active at reset
    cdef char own_region[16]
    cdef bytes region_order         # nearest first, 16 bytes each
    cdef uint64_t hash_key[2]
    cdef uint8_t *base              # of the segment being written, NULL before reset
    cdef uint32_t segment           # 0 or 1
    cdef uint64_t generation        # of the last commit

    def __cinit__(self, dict fds, dict wake_fds, str region, str host, bytes hash_key, bint mesh=False):
        own = region_bytes(region)
        if len(hash_key) != 16:
            raise ValueError(f"hash_key has {len(hash_key)} bytes; it must have 16")
        shm_attach(&self.shm, fds, 1 << SEG_ROOT | 1 << SEG_TABLE0 | 1 << SEG_TABLE1 | 1 << SEG_LOAD, NOBODY)
        for proc, fd in wake_fds.items():
            self.shm.wake_fd[<uint32_t>proc & 63] = fd
        memcpy(self.own_region, <const char *>own, len(own))
        memcpy(self.hash_key, <const char *>hash_key, 16)
        self.region_order = b""
        self.room, self.apps, self.machines, self.hosts = Room(), Apps(), Machines(), Hosts()
        self.hostnames, self.addresses, self.ids = Names(), Names(), Names()
        self.hosts.own, self.hosts.mesh = host.encode(), mesh
        self.room.shm = &self.shm
        self.room.arena = &self.arena

    def __dealloc__(self):
        self.close()
        shm_unmap(&self.shm)

    # -- building anew
    def reset(self):
        """Starts an empty table in the segment that is not active. Readers stay on the active one until the next
        commit.

        Apps, services and machines that the active table knows get their ids back when they are put again, so budgets
        and counters go on. Raises TimeoutError when a live process still reads that segment, from before the last flip,
        after 5 s."""
        self.await_readers()
        self.close()
        table_init(&self.former, &self.shm)
        self.generation = self.former.generation
        self.segment = 1 - (fp_acquire_u32(&self.shm.root.active_table) & 1)
        grace_announce_reuse(&self.shm)
        self.open(self.shm.base[SEG_TABLE0 + self.segment], self.shm.at.size[SEG_TABLE0])

    cdef await_readers(self):
        """Until nobody is left who entered before the segment stopped being the active one."""
        cdef uint64_t flipped = fp_load_u64(&self.shm.root.flip_epoch)
        grace_advance(&self.shm)    # a writer may have died between its flip and the end of its epoch
        deadline = time.monotonic() + READERS_WAIT_S
        while grace_oldest(&self.shm) <= flipped:
            if time.monotonic() > deadline:
                stuck = ", ".join(map(str, self.room.readers(flipped)))
                raise TimeoutError(f"the table cannot be rebuilt: process index {stuck} still reads the former one "
                                   f"after {READERS_WAIT_S:g} s; it is stuck, and the master should replace it")
            time.sleep(0.001)

    cdef open(self, uint8_t *base, uint64_t size):
        cdef TableHeader *header = <TableHeader *>base
        cdef int error = fp_punch(base, size)
        if error < 0:
            raise OSError(-error, "clearing the table segment failed")
        memcpy(header.key, self.hash_key, 16)
        if arena_open(&self.arena, &self.shm, base, self.shm.at.arena, size) < 0:
            raise MemoryError("the table writer's own memory could not be allocated")
        self.room.refused = 0
        self.apps.open(&self.shm, self.room, &self.former)
        self.hosts.open(&self.arena, self.room, &self.former)
        self.machines.open(&self.arena, self.apps, self.hosts, self.ids, &self.former)
        self.apps.drafting.arena = &self.arena
        self.apps.drafting.key = header.key
        self.apps.drafting.own_region = self.own_region
        self.apps.drafting.records = self.machines.records
        self.order_regions()
        self.hostnames.open(&self.arena, &header.hosts, header.key)
        self.addresses.open(&self.arena, &header.addresses, header.key)
        self.ids.open(&self.arena, &header.machines, header.key)
        self.base = base

    cdef close(self):
        self.base = NULL
        if self.machines is not None:       # None when __cinit__ has failed
            self.machines.close()
            self.hosts.close()
            self.apps.close()
            arena_close(&self.arena)

    cdef check_open(self):
        if self.base == NULL:
            raise RuntimeError("the table writer has no segment; call reset() first")

    # -- records
    def put_app(self, str name, list services):
        """Declares an app or replaces what it declares. Services keep their ids by internal port. Raises ValueError for
        a value that the table cannot hold, TableFull when the apps or services are used up; then nothing changed."""
        self.check_open()
        self.apps.declare(app_bytes(name), services)

    def remove_app(self, str name):
        """Hides an app: its hostnames, addresses and machines stay and show again when it is put again."""
        self.check_open()
        self.apps.hide(app_bytes(name))

    def put_hostname(self, str host, str app):
        """`host`: lower case; "*.NAME" stands for exactly one more label. Raises ValueError, TableFull."""
        self.put_name(self.hostnames, host_bytes(host), app, "hostnames", self.shm.sizes.hostnames)

    def remove_hostname(self, str host):
        """Nothing happens when it is not there."""
        self.remove_name(self.hostnames, host_bytes(host))

    def put_address(self, ip16, app):
        """`ip16`: 16 bytes, v4 as v4-mapped; `app` None: shared by every app that has a hostname. Raises ValueError,
        TableFull."""
        self.put_name(self.addresses, address_bytes(ip16), app, "addresses", self.shm.sizes.addresses)

    def remove_address(self, ip16):
        """Nothing happens when it is not there."""
        self.remove_name(self.addresses, address_bytes(ip16))

    def put_machine(self, str id, str app, ip16, int port, str region, str host, str health, bint cordoned):
        """Adds a machine or replaces its record; a machine that changes its app becomes another one. `port` 0: the
        service's internal port. `health`: "passing", "critical" or "unknown". Raises ValueError, TableFull; then
        nothing changed."""
        cdef TMachine record
        self.check_open()
        fill_machine(&record, id, ip16, port, region, host, health, cordoned)
        self.machines.put(id.encode(), self.apps.of(app_bytes(app)), &record)

    def remove_machine(self, str id):
        """Nothing happens when it is not there. Another machine gets its slot only when nobody uses it."""
        self.check_open()
        self.machines.remove(id.encode())

    def put_host(self, str id, str region, ip16, list ports, epoch, list roles, bint tls=False):
        """Adds a host of the mesh or replaces its record. `ip16`: its mesh address; `ports`: of its backhaul, at most
        64, one per slot, none if it takes no connections; `epoch`: seconds since 1970 of its boot; `roles`: "edge",
        "worker"; `tls`: whether it speaks TLS to others. Raises ValueError, TableFull; then nothing changed."""
        cdef THost record
        self.check_open()
        fill_host(&record, id, region, ip16, ports, epoch, roles, tls)
        self.hosts.put(id.encode(), &record)

    def remove_host(self, str id):
        """Its machines stay, and cannot be reached until it comes back. Nothing happens when it is not there."""
        self.check_open()
        self.hosts.remove(id.encode())

    def set_region_order(self, list regions):
        """The regions nearest first, for the lists of all apps from the next commit on, and after reset too. The own
        one is always the nearest; those that are not named come last, by name. Raises ValueError."""
        order = b"".join([region_bytes(region).ljust(16, b"\0") for region in regions])
        if order != self.region_order:
            self.region_order = order
            self.order_regions()

    cdef order_regions(self):
        self.apps.drafting.order = self.region_order
        self.apps.drafting.order_n = <uint32_t>(len(self.region_order) // 16)
        if self.base != NULL:
            self.apps.reorder()

    cdef put_name(self, Names names, bytes name, app, str what, uint32_t limit):
        cdef const KeyBlock *known
        cdef uint32_t id = NOBODY, before = NOBODY
        self.check_open()
        known = names.find(name)
        if known == NULL and names.count >= limit:
            raise self.room.full(what, limit, f"[table] {what}")
        if app is not None:
            id = self.apps.of(app_bytes(app)).id
        if known != NULL:
            before = known.value
            if before == id:
                return
        if names.put(name, id) < 0:
            raise self.room.memory_full()
        self.apps.count_ref(before, -1)
        self.apps.count_ref(id, 1)

    cdef remove_name(self, Names names, bytes name):
        cdef const KeyBlock *known
        self.check_open()
        known = names.find(name)
        if known != NULL:
            self.apps.count_ref(known.value, -1)
            names.remove(name)

    # -- publishing
    def commit(self, revision):
        """Publishes everything since the last commit, stores `revision` (of the state store), raises the generation and
        wakes the engines. After reset it flips the active segment. Raises TableFull when the table's memory is used up:
        then nothing is published, and the next commit tries again."""
        self.check_open()
        self.machines.build()
        self.apps.build()
        self.hosts.publish(self.base)
        self.machines.publish(self.base)
        self.apps.publish(self.base)
        self.hostnames.publish()
        self.addresses.publish()
        self.ids.publish()
        self.machines.unpublish(self.base)
        self.hosts.unpublish(self.base)
        self.announce(revision)
        self.apps.collect()
        arena_recycle(&self.arena)

    cdef announce(self, uint64_t revision):
        cdef TableHeader *header = <TableHeader *>self.base
        cdef uint64_t live = shm_live(&self.shm)
        fp_store_u32(&header.wildcards, self.hostnames.wildcards)
        fp_store_u32(&header.napps, self.apps.declared)
        fp_store_u32(&header.nhostnames, self.hostnames.count)
        fp_store_u32(&header.naddresses, self.addresses.count)
        fp_store_u32(&header.nmachines, <uint32_t>len(self.machines.by_id))
        fp_store_u32(&header.nhosts, <uint32_t>len(self.hosts.by_id))
        fp_store_u32(&header.app_ids, self.apps.ids.fresh)
        fp_store_u32(&header.machine_ids, self.machines.slots.fresh)
        fp_store_u32(&header.host_ids, self.hosts.slots.fresh)
        fp_store_u32(&header.service_ids, self.apps.service_ids.fresh)
        fp_store_u64(&header.arena_used, self.arena.used)
        fp_store_u64(&header.retired, self.arena.waiting)
        fp_store_u64(&header.refused, self.room.refused)
        fp_store_u64(&header.published_ns, fp_monotonic_ns())
        self.generation += 1
        fp_release_u64(&header.revision, revision)
        fp_release_u64(&header.generation, self.generation)
        if fp_load_u32(&self.shm.root.active_table) != self.segment:
            fp_store_u64(&self.shm.root.flip_epoch, fp_load_u64(&self.shm.root.table_epoch))
            fp_release_u32(&self.shm.root.active_table, self.segment)
        grace_advance(&self.shm)
        while live:
            shm_wake(&self.shm, fp_lowest_bit(live))
            live &= live - 1

    def usage(self):
        """Numbers of the table being written: bytes `used` (at `peak`), `waiting` for readers, changes `refused`, and
        how many apps, hostnames, addresses, machines and hosts there are."""
        self.check_open()
        return {
            "used": self.arena.used, "peak": self.arena.peak, "waiting": self.arena.waiting,
            "refused": self.room.refused, "apps": len(self.apps.by_name), "machines": len(self.machines.by_id),
            "hostnames": self.hostnames.count, "addresses": self.addresses.count, "hosts": len(self.hosts.by_id),
        }
