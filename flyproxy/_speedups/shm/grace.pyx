from libc.stdint cimport uint64_t
from flyproxy._speedups.shm.platform cimport fp_acquire_u64, fp_fence, fp_load_u64, fp_lowest_bit, fp_release_u64
from flyproxy._speedups.shm.segments cimport Shm, shm_beat, shm_live
from flyproxy._speedups.shm.table cimport EPOCH_OFFLINE


cdef uint64_t grace_oldest(Shm *shm) noexcept nogil:
    cdef uint64_t oldest = ~<uint64_t>0
    cdef uint64_t live, epoch
    fp_fence()
    live = shm_live(shm)
    while live:
        epoch = fp_acquire_u64(&shm_beat(shm, fp_lowest_bit(live)).epoch)
        if epoch != EPOCH_OFFLINE and epoch < oldest:
            oldest = epoch
        live &= live - 1
    return oldest


cdef uint64_t grace_advance(Shm *shm) noexcept nogil:
    cdef uint64_t ended = fp_load_u64(&shm.root.table_epoch)
    fp_release_u64(&shm.root.table_epoch, ended + 1)
    return ended


cdef void grace_announce_reuse(Shm *shm) noexcept nogil:
    fp_release_u64(&shm.root.recycle_seq, fp_load_u64(&shm.root.recycle_seq) + 1)
    fp_fence()      # the new number is visible before the first byte that is written anew
