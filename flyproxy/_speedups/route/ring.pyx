from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_scale
from flyproxy._speedups.shm.ring cimport ring_slot


cdef inline uint64_t place(uint64_t key, uint32_t probe) noexcept nogil:
    """The probe-th place of a key: the sequence of the SplitMix64 generator (Steele, Lea, Flood 2014)."""
    cdef uint64_t z = key + (probe + 1) * <uint64_t>0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef uint32_t successor(const uint64_t *points, uint32_t n, uint64_t at) noexcept nogil:
    """Index of the first point not before `at`, n when there is none. Points are spread evenly, so the search starts where
    `at` ought to be and doubles its steps from there: few lines are touched even of a ring of a million."""
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
        at = place(key, probe)
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
