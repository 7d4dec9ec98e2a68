# The door for control, which measures.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.segments cimport NOBODY, SEG_LOAD, Shm, shm_attach, shm_unmap
from flyproxy._speedups.shm.table cimport HOSTS_MAX

STATES = {"unknown": HS_UNKNOWN, "direct": HS_DIRECT, "via": HS_VIA, "down": HS_DOWN}
STATE_NAMES = {number: name for name, number in STATES.items()}


cdef uint32_t checked(str what, value) except? 0:
    if not 0 <= value < HOSTS_MAX:
        raise ValueError(f"{what} {value!r} does not exist; host slots are 0 to {HOSTS_MAX - 1}")
    return value


cdef class Closeness:
    """How far each host is, by host slot (TableReader.hosts tells them). `fds`: {segment name: descriptor}, "load"
    opened for writing if `writable`. One living writer."""
    cdef Shm shm
    cdef bint writable

    def __cinit__(self, dict fds, bint writable):
        shm_attach(&self.shm, fds, 1 << SEG_LOAD if writable else 0, NOBODY)
        self.writable = writable

    def __dealloc__(self):
        shm_unmap(&self.shm)

    def set(self, slot, str state, rtt_us, via):
        """`state`: "unknown", "direct", "via" or "down"; `rtt_us`: round trip in microseconds, below 2^32; `via`: with
        "via", and only then, the host slot of the relay, else None. Every worker's next choice goes by it. Raises
        ValueError for anything else."""
        cdef uint32_t at = checked("host slot", slot)
        cdef uint64_t word
        if not self.writable:
            raise ValueError("closeness was opened for reading; pass writable=True and a load segment open for writing")
        if state not in STATES:
            raise ValueError(f"state {state!r} is not one of {', '.join(STATES)}")
        if not 0 <= rtt_us < 1 << 32:
            raise ValueError(f"rtt_us = {rtt_us!r} is not between 0 and {(1 << 32) - 1}")
        if (via is not None) != (state == "via") or via == slot:
            raise ValueError(f"via = {via!r} with state {state!r} of host slot {slot}; name another host's slot with "
                             "state \"via\", and None with every other")
        word = <uint64_t>STATES[state] << 48 | <uint64_t>rtt_us
        host_word_set(&self.shm, at, word | <uint64_t>checked("via", via) << 32 if via is not None else word)

    def get(self, slot):
        """(state, round trip in µs, host slot of the relay or None)."""
        cdef uint64_t word = host_word(&self.shm, checked("host slot", slot))
        state = STATE_NAMES.get(host_state(word), "unknown")
        return state, host_rtt_us(word), host_via(word) if state == "via" else None
