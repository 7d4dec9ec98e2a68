from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_scale, fp_split
from flyproxy._speedups.shm.ring cimport ring_slot


cdef uint32_t successor(const uint64_t *points, uint32_t n, uint64_t at) noexcept nogil:
    """Index of the first point not before `at`, n when there is none. Points are spread evenly, so the search starts
    where `at` ought to be and doubles its steps from there: few lines are touched even of a ring of a million."""
    cdef uint32_t low = fp_scale(<uint32_t>(at >> 32), n), high = low, step = 1, middle
    if points[low] < at:
        while high < n and points[high] < at:
            low = high + 1
            high = high + step if step < n - high else n
            step *= 2
    else:
        while low > 0 and points[low - 1] >= at:
            high = low - 1
            low = low - step if step < low else 0
            step *= 2
    while low < high:
        middle = low + (high - low) // 2
        if points[middle] < at:
            low = middle + 1
        else:
            high = middle
    return low


cdef void ring_seek(RingWalk *walk, const uint64_t *points, uint32_t n, uint64_t key) noexcept nogil:
    cdef uint64_t distances[PROBES]
    cdef uint64_t at, distance
    cdef uint32_t probe, index, i
    walk.points = points
    walk.n = n
    walk.step = 0
    for probe in range(<uint32_t>PROBES):
        at = fp_split(key, probe)
        index = successor(points, n, at)
        index = index if index < n else 0
        distance = points[index] - at       # modulo 2^64: over the top too
        i = probe
        while i > 0 and distances[i - 1] > distance:
            distances[i] = distances[i - 1]
            walk.order[i] = walk.order[i - 1]
            i -= 1
        distances[i] = distance
        walk.order[i] = index


cdef uint32_t ring_next(RingWalk *walk) noexcept nogil:
    cdef uint64_t index
    if walk.step < PROBES:
        index = walk.order[walk.step]
    else:
        index = (<uint64_t>walk.order[0] + walk.step - PROBES + 1) % walk.n
    walk.step += 1
    return ring_slot(walk.points[index])
