# Abuse budgets. Time comes in with each call: this file knows no clock.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    REFILL_MAX = 3600           # seconds: more than fills any bucket


cdef void budgets_init(Budgets *b, uint64_t now_ms) noexcept nogil:
    cdef uint32_t i
    b.since_ms = now_ms
    for i in range(<uint32_t>BUDGETS):
        b.left[i] = budget_rules[i].size


cdef void budget_earn(Budgets *b, uint8_t kind, uint32_t tokens) noexcept nogil:
    cdef uint32_t left = b.left[kind] + tokens
    b.left[kind] = <uint16_t>(left if left < budget_rules[kind].size else budget_rules[kind].size)


# Only when a bucket is empty: a peer that stays within its buckets costs no arithmetic on time. So a burst may be twice
# the size of a bucket, once.
cdef void refill(Budgets *b, uint64_t now_ms) noexcept nogil:
    cdef uint64_t seconds = (now_ms - b.since_ms) / 1000 if now_ms > b.since_ms else 0
    cdef uint32_t i
    b.since_ms += seconds * 1000
    if seconds > REFILL_MAX:
        seconds = REFILL_MAX
    for i in range(<uint32_t>BUDGETS):
        budget_earn(b, <uint8_t>i, <uint32_t>seconds * budget_rules[i].per_second)


cdef int budget_take(Budgets *b, uint8_t kind, uint64_t now_ms) noexcept nogil:
    if b.left[kind] == 0:
        refill(b, now_ms)
        if b.left[kind] == 0:
            return 0
    b.left[kind] -= 1
    return 1
