# Flow control as arithmetic (RFC 9113 5.2, 6.9). A window is what its sender may still send; it may become negative
# when SETTINGS shrink it, and never exceeds 2^31 - 1.
#
#   sender    left falls with every byte sent and rises with WINDOW_UPDATE
#   receiver  left falls with every byte received; what its reader has drained is owed, and goes back as one
#             WINDOW_UPDATE once enough is owed, so that updates stay rare: 32 KB, or a sixteenth of a large window.
#             What is owed and not given back is missing on a long way, where the whole window comes in one burst
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef enum:
    WINDOW_MAX = 0x7FFFFFFF
    WINDOW_DEFAULT = 65535
    UPDATE_LEAST = 32767        # half of the default window

cdef struct Receiving:
    int32_t left
    uint32_t owed
    uint32_t target             # bytes the peer may have on the way when nothing is owed

cdef inline void receiving_init(Receiving *w, uint32_t target) noexcept nogil:
    w.left = <int32_t>target
    w.owed = 0
    w.target = target

# 0 when adding would exceed the largest window: FLOW_CONTROL_ERROR.
cdef inline int window_add(int32_t *left, int64_t delta) noexcept nogil:
    if left[0] + delta > WINDOW_MAX:
        return 0
    left[0] += <int32_t>delta
    return 1

# 0 when the peer sent more than it may: FLOW_CONTROL_ERROR.
cdef inline int receiving_take(Receiving *w, uint32_t n) noexcept nogil:
    if <int64_t>n > w.left:
        return 0
    w.left -= <int32_t>n
    return 1

cdef inline uint32_t receiving_least(const Receiving *w) noexcept nogil:
    cdef uint32_t half = w.target >> 1
    cdef uint32_t least = w.target >> 4 if w.target >> 4 > UPDATE_LEAST else UPDATE_LEAST
    return half if half < least else least

# n bytes were drained. The increment that is due now, 0: none.
cdef inline uint32_t receiving_drained(Receiving *w, uint32_t n) noexcept nogil:
    cdef uint32_t due = w.owed + n
    if due < receiving_least(w) or due == 0:
        w.owed = due
        return 0
    w.owed = 0
    w.left += <int32_t>due
    return due

# A larger target: the difference is drained room. A smaller one is ignored: what was granted cannot be taken back.
cdef inline uint32_t receiving_grow(Receiving *w, uint32_t target) noexcept nogil:
    cdef uint32_t more = target - w.target
    if target <= w.target or target > WINDOW_MAX:
        return 0
    w.target = target
    return receiving_drained(w, more)
