# What comes from Python, checked and turned into bytes and structs; each raises ValueError naming the value and the
# rule.
from flyproxy._speedups.shm.table cimport THost, TMachine

cdef bytes app_bytes(name)
cdef bytes host_bytes(host)
cdef bytes address_bytes(address)
cdef bytes region_bytes(region)
# All of *out but slot, generation, app and host_slot.
cdef int fill_machine(TMachine *out, id, ip16, int port, region, host, health, bint cordoned) except -1
# All of *out but slot and generation.
cdef int fill_host(THost *out, id, region, ip16, ports, epoch, roles, bint tls) except -1
