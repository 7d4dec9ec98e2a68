# What an app declares, from the dicts that TableWriter.put_app takes to the structs of the table.
from flyproxy._speedups.shm.table cimport TPort, TService
from libc.stdint cimport uint32_t

cdef struct Spec:
    TPort *ports                # malloc; sorted by start
    TService *services          # malloc; id, generation, app and the counts are not filled
    uint32_t nports
    uint32_t nservices
    int hashes                  # a service balances by hash

# Raises ValueError naming the value that is wrong; *out is then empty.
cdef int spec_parse(list services, Spec *out) except -1
cdef void spec_free(Spec *spec) noexcept nogil
