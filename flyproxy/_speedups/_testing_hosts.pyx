"""Test door of what shm/ keeps for the mesh: hosts, machines by id, closeness words, nonces seen."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from flyproxy._speedups.shm.closeness cimport host_rtt_us, host_state, host_via, host_word
from flyproxy._speedups.shm.platform cimport fp_split
from flyproxy._speedups.shm.replay cimport REPLAY_NONCES, REPLAY_SECONDS, REPLAY_SLOTS, replay_seen
from flyproxy._speedups.shm.segments cimport NOBODY, SEG_LOAD, Shm, shm_attach, shm_unmap
from flyproxy._speedups.shm.table cimport (
    HOST_HERE, HOST_UNKNOWN, HOSTS_MAX, THost, TApp, TMachine, TService, Table, table_app_by_host, table_enter,
    table_host, table_host_by_id, table_init, table_machine_by_id, table_service_by_port, table_slot,
)

LIMITS = {"hosts": HOSTS_MAX, "nonces": REPLAY_NONCES, "slots": REPLAY_SLOTS, "seconds": REPLAY_SECONDS}
HOST_SLOTS = {<uint32_t>HOST_HERE: "here", <uint32_t>HOST_UNKNOWN: "unknown"}


cdef class Mesh:
    """A reader without a process index. `fds`: as create_segments returns them."""

    cdef Shm shm
    cdef Table table

    def __cinit__(self, dict fds):
        shm_attach(&self.shm, fds, 1 << SEG_LOAD, NOBODY)
        table_init(&self.table, &self.shm)

    def __dealloc__(self):
        shm_unmap(&self.shm)

    # -- the table; each looks at what is published now
    def host(self, uint32_t slot):
        """(id, slot, generation, region, ports, epoch, roles) or None."""
        table_enter(&self.table)
        return host_tuple(table_host(&self.table, slot))

    def host_by_id(self, str id):
        cdef bytes name = id.encode()
        table_enter(&self.table)
        return host_tuple(table_host_by_id(&self.table, name, <uint32_t>len(name)))

    def machine_by_id(self, str id):
        """(slot, generation) or None."""
        cdef bytes name = id.encode()
        table_enter(&self.table)
        cdef const TMachine *m = table_machine_by_id(&self.table, name, <uint32_t>len(name))
        return (m.slot, m.generation) if m != NULL else None

    def host_slot(self, uint32_t slot):
        """Of the machine in a slot: the slot of its host, "here" or "unknown"; None: no machine."""
        table_enter(&self.table)
        cdef const TMachine *m = table_slot(&self.table, slot)
        return HOST_SLOTS.get(m.host_slot, m.host_slot) if m != NULL else None

    def service_by_port(self, str host, uint16_t internal_port):
        """(id, generation) or None."""
        cdef bytes name = host.encode()
        table_enter(&self.table)
        cdef const TApp *app = table_app_by_host(&self.table, name, <uint32_t>len(name))
        cdef const TService *s = table_service_by_port(&self.table, app, internal_port) if app != NULL else NULL
        return (s.id, s.generation) if s != NULL else None

    def places(self):
        """Where things begin: `host_dir` in a table segment, `host_words` and `replay` in the load segment."""
        return {"host_dir": self.shm.at.host_dir, "host_words": self.shm.at.host_words, "replay": self.shm.at.replay}

    # -- the load segment
    def word(self, uint32_t slot):
        """(state, round trip in µs, relay) as the engine reads them."""
        cdef uint64_t word = host_word(&self.shm, slot)
        return host_state(word), host_rtt_us(word), host_via(word)

    def seen(self, uint64_t nonce, uint64_t now_s):
        return replay_seen(&self.shm, nonce, now_s)

    def seen_run(self, uint64_t first, uint32_t n, uint64_t now_s):
        """Asks about n nonces, always the same ones from `first` on; for each "f" fresh, "s" seen, "n" no room."""
        cdef bytearray answers = bytearray(n)
        cdef char *out = answers
        cdef uint32_t i
        with nogil:
            for i in range(n):
                out[i] = (<const char *>b"nfs")[replay_seen(&self.shm, fp_split(first + i, 0), now_s) + 1]
        return answers.decode()


cdef host_tuple(const THost *h):
    cdef uint32_t i
    if h == NULL:
        return None
    ports = [h.ports[i] for i in range(h.nports)]
    return h.id[:h.id_n].decode(), h.slot, h.generation, h.region[:h.region_n].decode(), ports, h.epoch, h.roles
