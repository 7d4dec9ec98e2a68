"""Raw TCP towards machines of other hosts: each client has a connection of its own to the other proxy, which becomes a
byte relay when the answer to its hello says so.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from flyproxy._speedups.errors cimport ERR_PU03
from flyproxy._speedups.flow.hosts cimport (
    CONNECT_MS, host_connect, host_connect_deadline, host_first_port, host_greet, host_link, host_read_answer,
    host_send_hello, host_towards,
)
from flyproxy._speedups.flow.ids cimport random_choice
from flyproxy._speedups.flow.retry cimport F_HOST_UNREACHABLE, attempt_failed, attempt_refused
from flyproxy._speedups.flow.tunnel cimport tunnel_begin
from flyproxy._speedups.flow.upstream cimport upstream_attach
from flyproxy._speedups.flow.worker cimport CF_REMOTE, K_UP, US_BUSY, US_CONNECTING, US_GREETING, Conn, Exchange, Worker
from flyproxy._speedups.net.reactor cimport timer_set
from flyproxy._speedups.proto.answer cimport error_by_number
from flyproxy._speedups.proto.hello cimport HA_OK, HA_OLD_DESTINATION, HA_REFUSED, HELLO_TCP, Hello, HelloAnswer
from flyproxy._speedups.shm.table cimport (
    TApp, THost, TMachine, TService, table_app, table_machine, table_service_by_id,
)


cdef void tcp_relay_open(Worker *w, Exchange *x, const TMachine *m, const THost *h) noexcept nogil:
    cdef uint32_t port = (host_first_port(w) + <uint32_t>random_choice(w)) % h.nports
    cdef Conn *u = host_connect(w, h, port, K_UP)
    if u == NULL:
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return
    upstream_attach(x, u, m)
    u.flags |= CF_REMOTE
    u.state = US_CONNECTING
    u.vm_port = <uint16_t>port
    u.s.lane = x.down.s.lane
    timer_set(&w.reactor, &u.s, host_connect_deadline(w))


cdef void tcp_relay_greet(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    cdef Conn *c = x.down
    cdef const TMachine *m = table_machine(&w.table, x.machine, x.machine_generation)
    cdef const TApp *app = table_app(&w.table, x.app, x.app_generation)
    cdef const TService *s = table_service_by_id(&w.table, x.service, x.service_generation)
    cdef const THost *h = NULL
    cdef Hello hello
    cdef int hops = 0
    if m != NULL:
        h = host_towards(w, x, m, &hops)
    if app == NULL or s == NULL or h == NULL or u.vm_port >= h.nports:
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return
    host_greet(w, h, u.vm_port, &hello)
    hello.kind = HELLO_TCP
    hello.hops = <uint8_t>hops
    hello.service_port = s.internal_port
    hello.edge_port = c.service_port
    memcpy(hello.client, c.peer.address, 16)
    memcpy(hello.local, c.local.address, 16)
    hello.client_port = c.peer.port
    hello.local_port = c.local.port
    hello.app_n = <uint8_t>app.name_n
    memcpy(hello.app, app.name, app.name_n)
    hello.machine_n = m.id_n
    memcpy(hello.machine, m.id, m.id_n)
    hello.request_id_n = x.request_id_n
    memcpy(hello.request_id, x.request_id, x.request_id_n)
    if not host_send_hello(w, u, &hello):
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return
    u.state = US_GREETING
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + w.config.connect_ms + CONNECT_MS)


cdef int tcp_relay_read(Worker *w, Conn *u) noexcept nogil:
    cdef Exchange *x = u.x
    cdef HelloAnswer answer
    cdef int error
    cdef const TMachine *m
    cdef const THost *h
    cdef int hops = 0
    cdef int got = host_read_answer(w, u, &answer)
    if got == 0:
        return 0
    if got > 0 and answer.status == HA_OK:
        u.state = US_BUSY
        tunnel_begin(w, x, NULL, 0)
        return 0
    if got > 0 and answer.status == HA_REFUSED:
        error = error_by_number(answer.code)
        attempt_refused(w, x, error if error else <int>ERR_PU03, 1)
        return 0
    m = table_machine(&w.table, x.machine, x.machine_generation)
    h = host_towards(w, x, m, &hops) if m != NULL else NULL
    if got > 0 and answer.status == HA_OLD_DESTINATION and h != NULL and answer.epoch > host_link(w, h).epoch:
        host_link(w, h).epoch = answer.epoch
    attempt_failed(w, x, F_HOST_UNREACHABLE)
    return 0
