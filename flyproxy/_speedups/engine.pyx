"""The worker's door to the compiled engine: Python sees ``Engine`` and nothing below it.

The engine runs in a thread of its own without the GIL. What Python tells it travels through a bounded mailbox; what
it tells Python stands in shared memory.
"""

import ipaddress
import resource

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from flyproxy._speedups.flow.loop cimport (
    CMD_BACKHAUL, CMD_DRAIN, CMD_LISTENER_ADD, CMD_LISTENER_REMOVE, CMD_SETTINGS, CMD_STOP, worker_clear, worker_init,
    worker_post, worker_run,
)
from flyproxy._speedups.flow.worker cimport Config, Listener, Worker
from flyproxy._speedups.net.openssl cimport SSL_CTX
from flyproxy._speedups.net.tls cimport tls_party_init
from flyproxy._speedups.net.tls_context cimport Pem, tls_context
from flyproxy._speedups.proto.hello cimport HELLO_KEY
from flyproxy._speedups.proto.http1 cimport HEADERS_CAP
from flyproxy._speedups.shm.segments cimport PROCS_MAX, SEG_COUNTERS, SEG_LOAD, SEG_LOGS, SEG_ROOT, shm_attach

cdef enum:
    WRITABLE = (1 << SEG_ROOT) | (1 << SEG_LOAD) | (1 << SEG_COUNTERS) | (1 << SEG_LOGS)


cdef uint32_t milliseconds(double seconds):
    return <uint32_t>(seconds * 1000 + 0.5)


cdef uint8_t copy_text(char *out, str text, int cap) except? 0:
    cdef bytes raw = text.encode("ascii")[:cap]
    memcpy(out, <char *>raw, len(raw))
    return <uint8_t>len(raw)


cdef Config *make_config(dict settings) except NULL:
    """A Config from the settings as msgspec.to_builtins gives them: durations in seconds, sizes in bytes."""
    cdef dict limits = settings["limits"]
    cdef dict timeouts = settings["timeouts"]
    cdef Config *config = <Config *>calloc(1, sizeof(Config))
    if config == NULL:
        raise MemoryError
    try:
        config.limits.head = limits["head"]
        config.limits.headers = min(limits["headers"], HEADERS_CAP)
        config.limits.target = limits["target"]
        config.limits.trailers = limits["trailers"]
        config.limits.chunk_extension = limits["chunk_extension"]
        config.pipelined = limits["pipelined"]
        config.buffer = limits["buffer"]
        config.connections = limits["connections"]
        config.app_connections = limits["app_connections"]
        config.memory = limits["memory"] // max(1, settings["workers"]["count"])
        config.body_rate = limits["body_rate"]
        config.head_ms = milliseconds(timeouts["head"])
        config.body_idle_ms = milliseconds(timeouts["body_idle"])
        config.keepalive_ms = milliseconds(timeouts["keepalive"])
        config.connect_ms = milliseconds(timeouts["connect"])
        config.response_head_ms = milliseconds(timeouts["response_head"])
        config.write_stall_ms = milliseconds(timeouts["write_stall"])
        config.upstream_idle_ms = milliseconds(timeouts["upstream_idle"])
        config.tunnel_idle_ms = milliseconds(timeouts["tunnel_idle"])
        config.queue_ms = milliseconds(timeouts["queue"])
        config.backhaul_idle_ms = milliseconds(settings["backhaul"]["idle"])
        config.backhaul_streams = settings["backhaul"]["streams"]
        config.access_log = settings["log"]["access"] != "off"
        config.log_json = settings["log"]["format"] == "json"
        config.via_n = copy_text(config.via, settings["identity"]["via"], sizeof(config.via))
        config.server_n = copy_text(config.server, settings["identity"]["server"], sizeof(config.server))
        config.region_n = copy_text(config.region, settings["region"], sizeof(config.region))
    except BaseException:
        free(config)
        raise
    return config


cdef bytes ranges_of(list trusted):
    """Networks as 17 bytes each: 16 of address (IPv4 as v4-mapped) and the prefix length in those 128 bits."""
    out = bytearray()
    for text in trusted:
        network = ipaddress.ip_network(text, strict=False)
        if network.version == 4:
            out += b"\0" * 10 + b"\xff\xff" + network.network_address.packed + bytes([96 + network.prefixlen])
        else:
            out += network.network_address.packed + bytes([network.prefixlen])
    return bytes(out)


cdef class Engine:
    """One worker's engine. ``run`` blocks without the GIL until ``stop``; the rest may be called from other threads."""

    cdef Worker *w
    cdef int proc
    cdef readonly str error

    def __cinit__(self, int proc, dict segment_fds, dict wake_fds, dict settings, str host):
        cdef int number
        self.proc = proc
        self.error = None
        self.w = <Worker *>calloc(1, sizeof(Worker))
        if self.w == NULL:
            raise MemoryError
        shm_attach(&self.w.shm, segment_fds, WRITABLE, proc)
        for number in range(PROCS_MAX):
            self.w.shm.wake_fd[number] = wake_fds.get(number, -1)
        self.w.config = make_config(settings)
        self.w.host_n = copy_text(self.w.host, host, sizeof(self.w.host))
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.w.files_max = max(16, files - files // 10 - 64)
        if not worker_init(self.w):
            raise MemoryError("the engine could not be set up: out of memory or descriptors; raise RLIMIT_NOFILE")

    def run(self) -> None:
        """Serve until ``stop``; then every connection is closed. Call it once, in a thread of its own."""
        with nogil:
            worker_run(self.w)
            worker_clear(self.w)

    cdef _post(self, int command, long number, void *pointer):
        if not worker_post(self.w, command, number, pointer):
            raise BlockingIOError("the engine's mailbox is full: its thread does not run")

    def apply_settings(self, dict settings) -> None:
        """New limits, timeouts, identity and log form; in force from the engine's next turn."""
        cdef Config *config = make_config(settings)
        try:
            self._post(CMD_SETTINGS, 0, config)
        except BlockingIOError:
            free(config)
            raise

    def add_listener(self, uint32_t id, uint32_t slot, int fd, uint16_t service_port, bint proxy_protocol, list trusted,
                     bint is_backhaul) -> None:
        """Take a listening socket over; it is served while this worker owns its slot.

        ``trusted``: networks (CIDR) whose PROXY headers are believed; empty: all.
        """
        cdef bytes ranges = ranges_of(trusted)
        cdef Listener *listener = <Listener *>calloc(1, sizeof(Listener))
        if listener == NULL:
            raise MemoryError
        listener.ranges = <uint8_t *>calloc(1, len(ranges) + 1)
        if listener.ranges == NULL:
            free(listener)
            raise MemoryError
        memcpy(listener.ranges, <char *>ranges, len(ranges))
        listener.nranges = <uint32_t>len(ranges) // 17
        listener.id = id
        listener.slot = slot
        listener.service_port = service_port
        listener.proxy_protocol = proxy_protocol
        listener.backhaul = is_backhaul
        try:
            self._post(CMD_LISTENER_ADD, fd, listener)
        except BlockingIOError:
            free(listener.ranges)
            free(listener)
            raise

    def set_backhaul(self, uint32_t epoch, bytes key, bytes address) -> None:
        """Take part in the mesh: our boot epoch, the 32 bytes under which hosts know each other, our mesh address (16
        bytes, IPv4 as v4-mapped)."""
        cdef char *copy
        if len(key) != HELLO_KEY or len(address) != 16:
            raise ValueError(f"the backhaul key must have {HELLO_KEY} bytes and the address 16, not {len(key)} and "
                             f"{len(address)}")
        copy = <char *>malloc(HELLO_KEY + 16)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <char *>key, HELLO_KEY)
        memcpy(copy + HELLO_KEY, <char *>address, 16)
        try:
            self._post(CMD_BACKHAUL, epoch, copy)
        except BlockingIOError:
            free(copy)
            raise

    def set_certificates(self, bytes ca, bytes cert, bytes key) -> None:
        """Speak TLS with hosts that do, as who `cert` says; PEM texts. Once, before `run`.

        Raises ValueError with what could not be used.
        """
        cdef char why[512]
        cdef SSL_CTX *context = tls_context(
            Pem(ca, <uint32_t>len(ca)), Pem(cert, <uint32_t>len(cert)), Pem(key, <uint32_t>len(key)), b"\x08flyproxy",
            why, sizeof(why),
        )
        if context == NULL:
            raise ValueError(f"the certificates of the backhaul cannot be used: {why.decode('ascii', 'replace')}")
        if not tls_party_init(&self.w.tls, context, &self.w.pool):
            raise MemoryError

    def remove_listener(self, uint32_t id) -> None:
        """Stop accepting on it and close it; its connections live on. Unknown ids are ignored."""
        self._post(CMD_LISTENER_REMOVE, id, NULL)

    def drain(self) -> None:
        """Accept nothing more; connections end with their next answer, tunnels when they end."""
        self._post(CMD_DRAIN, 0, NULL)

    def stop(self) -> None:
        """End ``run``; what is still open is closed."""
        self._post(CMD_STOP, 0, NULL)

    @property
    def connections(self) -> int:
        """Client connections open."""
        return self.w.downs
