# Which nonces of handshakes were seen in the last minute, by all workers of the master together: a set in the load
# segment, which outlives reloads. (Handshakes from before a restart of the master name another epoch.)
#
# One table per minute of the clock that callers pass; three, so that the former, this and the next minute's never share
# one. A slot is one word: 48 bits of the mixed nonce and 16 for the minute; a word of any other minute is free. Within
# a minute words are only added, each by one compare-and-swap into the first free slot of the nonce's way. So two that
# ask about the same nonce meet in the same slot, and of any two one hears that it was seen.
#
# Askers who disagree about the minute write into different tables. So each looks at the neighbours before it writes
# (what was seen takes no more room), and again after a fence: of any two the one whose fence comes later sees the
# other's word. At most one hears "fresh"; it can be that both hear "seen", and only when the same handshake arrives
# twice at the turn of a minute.
#
# A nonce stays for 60 to 120 s. It is never forgotten before: without room in REPLAY_PROBES slots the answer is -1. A
# nonce that was never seen is taken for one that was with a probability below 2^-40.
from libc.stdint cimport uint64_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:
    REPLAY_SECONDS = 60         # a nonce is remembered at least so long
    REPLAY_NONCES = 65536       # fresh ones that surely fit into a minute: half of the slots
    REPLAY_SLOTS = 131072       # of one table
    REPLAY_TABLES = 3
    REPLAY_PROBES = 256         # half full, the longest way is about 60 slots
    REPLAY_BYTES = REPLAY_TABLES * REPLAY_SLOTS * 8

# 0: fresh, and remembered from now on; 1: seen before; -1: no room. Both others: refuse. `now_s`: seconds of
# CLOCK_MONOTONIC, read at most a minute ago. The load segment is mapped for writing.
cdef int replay_seen(Shm *shm, uint64_t nonce, uint64_t now_s) noexcept nogil
