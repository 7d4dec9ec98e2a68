# The worker host's side of the backhaul: hellos checked, requests and relays of other proxies taken and answered. A
# host delivers to its own machines or refuses; only what came with a hop left goes on to a third host.
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Listener, Transport, Worker
from flyproxy._speedups.net.sockets cimport Endpoint
from flyproxy._speedups.proto.http2 cimport H2Event

cdef void delivery_accepted(Worker *w, Listener *listener, int fd, const Endpoint *peer) noexcept nogil
cdef int delivery_read_hello(Worker *w, Conn *c) noexcept nogil     # in state TS_HELLO; as an event handler
cdef void delivery_request(Worker *w, Transport *t, const H2Event *ev) noexcept nogil
# Instead of a choice: the machine that the other proxy has chosen, if it has room.
cdef void delivery_route(Worker *w, Exchange *x) noexcept nogil
# The VM's head stands in w.response. 0: it could not be written, the exchange has failed.
cdef int delivery_answer(Worker *w, Exchange *x) noexcept nogil
cdef int delivery_interim(Worker *w, Exchange *x) noexcept nogil
# Our own answer, which the other proxy acts on and never passes to a client.
cdef void delivery_refuse(Worker *w, Exchange *x, int error) noexcept nogil
cdef int delivery_accept_relay(Worker *w, Exchange *x) noexcept nogil      # the VM is connected
