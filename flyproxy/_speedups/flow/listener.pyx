"""Listening sockets, level-triggered. Every worker holds all of them; the owner word of a slot says who accepts there.

Another process holds the same descriptions, so to stop accepting is EPOLL_CTL_DEL first: a close alone would go on
reporting.
"""

from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free

from flyproxy._speedups.flow.accept cimport down_accepted
from flyproxy._speedups.flow.delivery cimport delivery_accepted
from flyproxy._speedups.flow.worker cimport ACCEPT_PAUSE_MS, ACCEPTS_PER_TURN, K_LISTENER, Conn, Listener, Worker
from flyproxy._speedups.net.reactor cimport Source, reactor_add, reactor_close, reactor_watch, timer_set
from flyproxy._speedups.net.sockets cimport Endpoint, sock_accept, sock_prepare_listener
from flyproxy._speedups.shm.counters cimport LIM_FILES
from flyproxy._speedups.shm.segments cimport shm_slot_owner

cdef enum:
    RANGE_BYTES = 17            # network and prefix length


cdef int listener_add(Worker *w, int fd, Listener *listener) noexcept nogil:
    cdef Source *s = reactor_add(&w.reactor, fd, K_LISTENER, 1)
    if s == NULL:
        return 0
    sock_prepare_listener(fd)
    listener.conn = <Conn *>s
    listener.conn.listener = listener
    listener.next = w.listeners
    w.listeners = listener
    w.owner_epoch = 0           # look at the owner words again
    return 1


cdef void watch(Worker *w, Listener *listener, int on) noexcept nogil:
    if listener.watched != on:
        listener.watched = <uint8_t>on
        reactor_watch(&w.reactor, &listener.conn.s, on)


cdef void discard(Worker *w, Listener *listener) noexcept nogil:
    watch(w, listener, 0)
    reactor_close(&w.reactor, &listener.conn.s)
    free(listener.ranges)
    free(listener)


cdef void listener_remove(Worker *w, uint32_t id) noexcept nogil:
    cdef Listener **link = &w.listeners
    cdef Listener *listener
    while link[0] != NULL:
        listener = link[0]
        if listener.id == id:
            link[0] = listener.next
            discard(w, listener)
        else:
            link = &listener.next


cdef void listeners_clear(Worker *w) noexcept nogil:
    cdef Listener *listener
    while w.listeners != NULL:
        listener = w.listeners
        w.listeners = listener.next
        discard(w, listener)


cdef int owned(Worker *w, Listener *listener) noexcept nogil:
    return not w.draining and shm_slot_owner(&w.shm, listener.slot) == w.shm.proc


cdef void listeners_refresh(Worker *w) noexcept nogil:
    cdef Listener *listener = w.listeners
    w.owner_epoch = w.shm.root.owner_epoch
    while listener != NULL:
        watch(w, listener, owned(w, listener) and not listener.paused)
        listener = listener.next


cdef int trusted(const Listener *listener, const Endpoint *peer) noexcept nogil:
    cdef uint32_t k, byte, bits
    cdef const uint8_t *range_
    if listener.nranges == 0:
        return 1                # nobody was excluded
    for k in range(listener.nranges):
        range_ = listener.ranges + k * RANGE_BYTES
        bits = range_[16]
        byte = 0
        while bits >= 8 and range_[byte] == peer.address[byte]:
            byte += 1
            bits -= 8
        if bits == 0 or (bits < 8 and (range_[byte] ^ peer.address[byte]) >> (8 - bits) == 0):
            return 1
    return 0


cdef void pause(Worker *w, Listener *listener) noexcept nogil:
    # Level-triggered: without a pause a full descriptor table would spin.
    w.counters.limits[LIM_FILES] += 1
    listener.paused = 1
    watch(w, listener, 0)
    timer_set(&w.reactor, &listener.conn.s, w.reactor.now_ms + ACCEPT_PAUSE_MS)


cdef int listener_on_event(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Listener *listener = (<Conn *>source).listener
    cdef Endpoint peer
    cdef int _k, fd
    for _k in range(ACCEPTS_PER_TURN):
        if not listener.watched or not owned(w, listener):
            return 0
        if w.downs + w.ups >= w.files_max:
            pause(w, listener)
            return 0
        fd = sock_accept(source.fd, &peer)
        if fd == -EAGAIN:
            return 0
        if fd == -EMFILE or fd == -ENFILE or fd == -ENOBUFS or fd == -ENOMEM:
            pause(w, listener)
            return 0
        if fd >= 0:             # other errors belong to the connection that is gone (accept(2))
            if listener.backhaul:
                delivery_accepted(w, listener, fd, &peer)
            else:
                down_accepted(w, listener, fd, &peer, trusted(listener, &peer))
    return 0


cdef void listener_on_timeout(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Listener *listener = (<Conn *>source).listener
    listener.paused = 0
    watch(w, listener, owned(w, listener))
