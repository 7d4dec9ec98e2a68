# The frame scheduler: a ring of nodes, each with a deficit. Knows bytes and turns; does not know streams or windows.
from libc.stdint cimport uint32_t


cdef void sched_ready(Sched *s, SchedNode *node) noexcept nogil:
    if node.next != NULL:
        return
    node.deficit = 0
    if s.head == NULL:
        s.head = node.next = node.prev = node
        return
    node.next = s.head
    node.prev = s.head.prev
    node.prev.next = node
    s.head.prev = node


cdef void sched_stalled(Sched *s, SchedNode *node) noexcept nogil:
    if node.next == NULL:
        return
    if node.next == node:
        s.head = NULL
    else:
        node.prev.next = node.next
        node.next.prev = node.prev
        if s.head == node:
            s.head = node.next
    node.next = node.prev = NULL
    node.deficit = 0


cdef SchedNode *sched_next(Sched *s, uint32_t *room) noexcept nogil:
    if s.head == NULL:
        return NULL
    if s.head.deficit == 0:
        s.head.deficit = s.quantum
    room[0] = s.head.deficit
    return s.head


cdef void sched_sent(Sched *s, SchedNode *node, uint32_t n) noexcept nogil:
    node.deficit = node.deficit - n if n < node.deficit else 0
    if node.deficit == 0:
        s.head = node.next
