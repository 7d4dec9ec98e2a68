# What an untrusted peer may make us do for nothing: buckets of tokens, refilled by time and by useful work. The sizes
# stand in csrc/fp_http2.h. A trusted peer (our own proxies over the mesh) has none: one budget over all riders of a
# transport would let one of them sever all.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fp_http2.h" nogil:
    enum:                       # Budget
        B_RESET
        B_OWN_RESET
        B_PING
        B_SETTINGS
        B_EMPTY_DATA
        B_WINDOW
        B_IGNORED
        BUDGETS
    ctypedef struct BudgetRule "struct fp_budget_rule":
        uint16_t size
        uint16_t per_second
    const BudgetRule *budget_rules "fp_budget_rules"

cdef struct Budgets:
    uint64_t since_ms           # of the last refill
    uint16_t[7] left            # by Budget

cdef void budgets_init(Budgets *b, uint64_t now_ms) noexcept nogil
# 0 when nothing is left: ENHANCE_YOUR_CALM.
cdef int budget_take(Budgets *b, uint8_t kind, uint64_t now_ms) noexcept nogil
cdef void budget_earn(Budgets *b, uint8_t kind, uint32_t tokens) noexcept nogil
