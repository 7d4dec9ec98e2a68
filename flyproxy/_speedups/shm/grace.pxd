# Grace periods: when may memory that readers have seen be written again?
#
# Reader, at the start of a turn:  beat.epoch = root.table_epoch; fence; read references.    Asleep: beat.epoch = 0.
# Writer:  unpublish (release store); later: fence; read all beats; reuse if each is 0 or newer than the
#          epoch of unpublishing.
#
# Proof. The two fences have an order. Reader's first: the writer sees the reader's epoch e or a later one. If the
# reader holds the block then e is not newer than the epoch E of unpublishing, because the epoch rises to E + 1 with
# release after the unpublishing, so whoever reads E + 1 also sees the block unpublished. So the writer sees e <= E and
# waits. Writer's first: everything the reader reads after its fence was unpublished before, so it cannot hold the
# block.
from libc.stdint cimport uint64_t
from flyproxy._speedups.shm.segments cimport Shm

# The oldest epoch that a live process may be reading; 2^64-1 when all are asleep.
cdef uint64_t grace_oldest(Shm *shm) noexcept nogil
# Begins a new epoch; the one that just ended: what was unpublished before belongs to it.
cdef uint64_t grace_advance(Shm *shm) noexcept nogil
# To be called before writing into memory that readers without a beat may be looking at.
cdef void grace_announce_reuse(Shm *shm) noexcept nogil
