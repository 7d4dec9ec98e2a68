# Who may send next: deficit round robin over those who have data and window. Deterministic: the order is the order of
# becoming ready. Whoever is ready all the time gets, over any span, within one quantum of what any other such node
# gets; a node that is stalled is not in the ring and costs the others nothing.
from libc.stdint cimport uint32_t

cdef struct SchedNode:          # zero-filled is valid: in no ring
    SchedNode *next
    SchedNode *prev
    uint32_t deficit            # bytes that it may still send in this turn

cdef struct Sched:              # a ring; head is whose turn it is
    SchedNode *head
    uint32_t quantum            # bytes in one turn: the largest frame

# Joins at the end; nothing happens when it is in the ring already.
cdef void sched_ready(Sched *s, SchedNode *node) noexcept nogil
# Leaves, with what was left of its turn.
cdef void sched_stalled(Sched *s, SchedNode *node) noexcept nogil
# Whose turn it is, and *room bytes that it may send; NULL when nobody is ready.
cdef SchedNode *sched_next(Sched *s, uint32_t *room) noexcept nogil
# The node of sched_next sent n <= room bytes: its turn ends when nothing is left of its quantum.
cdef void sched_sent(Sched *s, SchedNode *node, uint32_t n) noexcept nogil
