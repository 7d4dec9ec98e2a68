# The master's door: makes the segments, says who accepts on which slot and which process indexes are in use, and reads
# the heartbeats.
import os
from collections import namedtuple
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from flyproxy._speedups.shm.budget cimport budget_reclaim
from flyproxy._speedups.shm.platform cimport (
    fp_and_u64, fp_load_u32, fp_load_u64, fp_lowest_bit, fp_monotonic_ns, fp_or_u64, fp_release_u32, fp_release_u64,
)
from flyproxy._speedups.shm.segments cimport (
    NOBODY, PS_DRAINING, PS_FREE, PS_READY, PS_STARTING, SEG_COUNT, SEG_LOAD, SEG_ROOT, ProcBeat, Shm, Sizes,
    root_owners, shm_attach, shm_beat, shm_create, shm_layout, shm_live, shm_sizes, shm_slot_owner, shm_unmap,
    shm_wake,
)

SEGMENTS = ("root", "table0", "table1", "load", "counters", "logs")
STATES = {"free": PS_FREE, "starting": PS_STARTING, "ready": PS_READY, "draining": PS_DRAINING}
STATE_NAMES = {number: name for name, number in STATES.items()}

ProcView = namedtuple("ProcView", (
    "pid", "state", "engine_turns", "engine_ns", "python_ns", "revision", "generation", "connections", "upstreams",
))


cdef Sizes checked_sizes(apps, hostnames, addresses, machines, procs, slots) except *:
    cdef Sizes sizes
    given = {
        "apps": apps, "hostnames": hostnames, "addresses": addresses, "machines": machines, "procs": procs,
        "slots": slots,
    }
    for name, value in given.items():
        most = {"procs": 64, "slots": 256}.get(name, 1 << 23)
        if not 0 < value <= most:
            raise ValueError(f"shared memory: {name} = {value} is not between 1 and {most}; "
                             "correct [table] or [workers] in flyproxy.toml")
    shm_sizes(&sizes, apps, hostnames, addresses, machines, procs, slots)
    return sizes


def create_segments(*, apps, hostnames, addresses, machines, procs, slots):
    """Sealed memfds for the given numbers (settings [table]; processes at most 64, slots at most 256), as
    {"root": fd, "table0": …, "table1": …, "load": …, "counters": …, "logs": …}. Only what is used takes memory.
    Raises ValueError for a number out of range, OSError when the kernel refuses."""
    cdef Sizes sizes = checked_sizes(apps, hostnames, addresses, machines, procs, slots)
    cdef int fds[SEG_COUNT]
    cdef int result = shm_create(&sizes, apps, machines, fds)
    if result < 0:
        raise OSError(-result, "shared memory: creating the segments failed")
    return {name: fds[i] for i, name in enumerate(SEGMENTS)}


def layout_hash(*, apps, hostnames, addresses, machines, procs, slots):
    """Hash over the layout of the segments that create_segments would make: equal hashes can share segments."""
    cdef Sizes sizes = checked_sizes(apps, hostnames, addresses, machines, procs, slots)
    return shm_layout(&sizes)


def read_only_fd(int fd):
    """A new descriptor of the same memory that cannot be mapped for writing. The caller closes it."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


cdef class Root:
    """The root segment as the master (`writable`) or an onlooker sees it. `fds`: as create_segments returns them.

    `wake_fds`: {process index: eventfd}; with them reclaim_proc wakes the workers that may wait for what it freed."""
    cdef Shm shm

    def __cinit__(self, dict fds, bint writable, dict wake_fds=None):
        shm_attach(&self.shm, fds, (1 << SEG_ROOT | 1 << SEG_LOAD) if writable else 0, NOBODY)
        for proc, fd in (wake_fds or {}).items():
            self.shm.wake_fd[<uint32_t>proc & 63] = fd

    def __dealloc__(self):
        shm_unmap(&self.shm)

    cdef ProcBeat *beat(self, proc) except NULL:
        if not 0 <= proc < self.shm.sizes.procs:
            raise ValueError(f"process index {proc} does not exist; there are {self.shm.sizes.procs}")
        return shm_beat(&self.shm, proc)

    @property
    def layout(self):
        """The layout hash of these segments."""
        return self.shm.root.layout

    # -- slots
    def slot_owner(self, slot):
        """Process index that accepts on this slot, or None."""
        cdef uint32_t owner = shm_slot_owner(&self.shm, self.checked_slot(slot))
        return None if owner == NOBODY else owner

    def set_slot_owner(self, slot, proc):
        """Gives the slot to a process index, or to nobody with None; raises owner_epoch. The caller wakes workers."""
        cdef uint32_t owner = NOBODY if proc is None else proc
        if proc is not None:
            self.beat(proc)
        fp_release_u32(&root_owners(self.shm.root)[<uint32_t>self.checked_slot(slot)], owner)
        fp_release_u64(&self.shm.root.owner_epoch, fp_load_u64(&self.shm.root.owner_epoch) + 1)

    cdef checked_slot(self, slot):
        if not 0 <= slot < self.shm.sizes.slots:
            raise ValueError(f"slot {slot} does not exist; there are {self.shm.sizes.slots}")
        return slot

    # -- process indexes
    def claim_proc(self, proc, pid):
        """Takes a free process index for a new process: clean beat, state "starting", counted in every budget."""
        cdef ProcBeat *beat = self.beat(proc)
        cdef uint32_t index = proc
        if shm_live(&self.shm) >> index & 1:
            raise ValueError(f"process index {proc} is in use by pid {beat.pid}; reclaim it first")
        memset(beat, 0, sizeof(ProcBeat))
        beat.pid = pid
        beat.python_ns = beat.engine_ns = fp_monotonic_ns()
        fp_release_u32(&beat.state, PS_STARTING)
        fp_or_u64(&self.shm.root.live_mask, (<uint64_t>1) << index)

    def set_proc_state(self, proc, name):
        """`name`: "starting", "ready" or "draining"."""
        if name not in STATES:
            raise ValueError(f"state {name!r} is not one of {', '.join(STATES)}")
        fp_release_u32(&self.beat(proc).state, STATES[name])

    def reclaim_proc(self, proc):
        """After the kernel confirmed the death: budget words, gauges and the live bit become zero; counters stay."""
        cdef ProcBeat *beat = self.beat(proc)
        cdef uint32_t index = proc
        cdef uint64_t others
        fp_and_u64(&self.shm.root.live_mask, ~((<uint64_t>1) << index))
        budget_reclaim(&self.shm, index)
        memset(beat, 0, sizeof(ProcBeat))
        others = shm_live(&self.shm)
        while others:       # what the dead one held is free now, and nobody else would tell those who wait for it
            shm_wake(&self.shm, fp_lowest_bit(others))
            others &= others - 1

    def live(self):
        """Process indexes in use, ascending."""
        mask = shm_live(&self.shm)
        return [proc for proc in range(64) if mask >> proc & 1]

    def proc(self, proc):
        """What one process says of itself; times in ns of CLOCK_MONOTONIC."""
        cdef ProcBeat *beat = self.beat(proc)
        return ProcView(
            fp_load_u32(&beat.pid), STATE_NAMES.get(fp_load_u32(&beat.state), "free"), fp_load_u64(&beat.engine_turns),
            fp_load_u64(&beat.engine_ns), fp_load_u64(&beat.python_ns), fp_load_u64(&beat.revision),
            fp_load_u64(&beat.generation), fp_load_u32(&beat.connections), fp_load_u32(&beat.upstreams),
        )

    def beat_python(self, proc):
        """The Python side of a process says that it lives."""
        fp_release_u64(&self.beat(proc).python_ns, fp_monotonic_ns())
