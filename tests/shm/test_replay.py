"""Nonces that were seen: never forgotten before their time, shared by all processes, bounded."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from flyproxy._speedups._testing_hosts import LIMITS, Mesh
from tests.kit.wait import until
from tests.shm.children import in_child, status_of
from tests.shm.world import World

FRESH, SEEN, NO_ROOM = 0, 1, -1
MINUTE, NONCES = LIMITS["seconds"], LIMITS["nonces"]
LONG = 65535 * MINUTE  # after so long the numbers of minutes begin again


@pytest.mark.parametrize("nonce", [0, 1, 0x1234, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("now", [0, 1, 59, 60, 61, 10**6 + 7, LONG - 1, LONG, LONG + 61, 1 << 62])
def test_a_nonce_is_fresh_once(world: World, nonce: int, now: int) -> None:
    peers = world.peers()
    assert [peers.seen(nonce, now) for _ in range(3)] == [FRESH, SEEN, SEEN]
    assert peers.seen(nonce ^ 1, now) == FRESH


@pytest.mark.parametrize("begin", [1000, 1019, 1020, 1079, LONG - 30, LONG - 1])
def test_it_is_remembered_for_its_whole_time_and_not_for_ever(world: World, begin: int) -> None:
    """`begin`: somewhere in a minute, at its first and its last second, and where numbers begin again."""
    for after in range(MINUTE + 1):
        peers = world.peers()
        assert peers.seen(after, begin) == FRESH
        assert peers.seen(after, begin + after) == SEEN
    assert world.peers().seen(1 << 40, begin) == FRESH
    assert world.peers().seen(1 << 40, begin + 2 * MINUTE) == FRESH


def test_being_asked_again_neither_prolongs_it_nor_takes_room(world: World) -> None:
    peers = world.peers()
    assert peers.seen(7, 0) == FRESH
    assert {peers.seen(7, now) for now in range(2 * MINUTE)} == {SEEN}
    assert peers.seen(7, 2 * MINUTE) == FRESH


def test_clocks_that_differ_by_a_turn_of_the_minute_agree(world: World) -> None:
    """One worker read the clock before the turn, the other after it."""
    ahead, behind = world.peers(), world.peers()
    assert (ahead.seen(1, 120), behind.seen(1, 119)) == (FRESH, SEEN)
    assert (behind.seen(2, 119), ahead.seen(2, 120)) == (FRESH, SEEN)


def test_so_many_fit_into_a_minute_and_none_is_forgotten(world: World) -> None:
    peers = world.peers()
    for minute in range(5):
        now = 1_000_000 * MINUTE + minute * MINUTE
        assert Counter(peers.seen_run(minute * NONCES, NONCES, now)) == {"f": NONCES}
        assert Counter(peers.seen_run(minute * NONCES, NONCES, now + MINUTE - 1)) == {"s": NONCES}
        if minute:
            assert Counter(peers.seen_run((minute - 1) * NONCES, NONCES, now)) == {"s": NONCES}


def test_too_many_are_refused_and_those_that_were_taken_stay(world: World) -> None:
    peers, many = world.peers(), 3 * NONCES
    first = peers.seen_run(0, many, 60)
    assert set(first) == {"f", "n"}
    assert NONCES < first.count("f") <= LIMITS["slots"]
    again = peers.seen_run(0, many, 60)
    assert all(b == "s" for a, b in zip(first, again, strict=True) if a == "f")
    assert "n" in again
    assert Counter(peers.seen_run(1 << 50, 1000, 60 + MINUTE)) == {"f": 1000}  # the next minute has room
    after = peers.seen_run(0, many, 60 + MINUTE)
    assert all(b == "s" for a, b in zip(first, after, strict=True) if a == "f")


def racing(world: World, run: Callable[[Mesh, int], str], processes: int = 3) -> list[str]:
    """What each of several processes found, all beginning at once."""
    go, answers = os.pipe(), [os.pipe() for _ in range(processes)]

    def child(number: int) -> int:
        peers = Mesh(world.fds)
        os.read(go[0], 1)
        text = run(peers, number).encode()
        with os.fdopen(answers[number][1], "wb") as out:
            out.write(text)
        return 0

    pids = [in_child(lambda number=number: child(number)) for number in range(processes)]
    for pair in answers:
        os.close(pair[1])
    os.write(go[1], b"g" * processes)
    found = []
    for pair in answers:
        with os.fdopen(pair[0], "rb") as answer:
            found.append(answer.read().decode())
    assert [status_of(pid) for pid in pids] == [0] * processes
    for fd in go:
        os.close(fd)
    return found


def test_of_many_processes_exactly_one_hears_fresh(world: World) -> None:
    """The same handshake at all workers at once; again, under another time, when the kernel let them run in turn."""
    times = itertools.count(3000, 10 * MINUTE)

    def crossed() -> bool:
        now = next(times)
        found = racing(world, lambda peers, _: peers.seen_run(0, 50_000, now))
        assert {"".join(sorted(heard)) for heard in zip(*found, strict=True)} == {"fss"}
        return sum(one.count("f") > 100 for one in found) >= 2

    until(crossed, "they run at the same time")


def test_at_the_turn_of_a_minute_at_most_one_hears_fresh(world: World) -> None:
    """Each process asks under its own minute; neighbours write into different tables."""
    found = racing(world, lambda peers, number: peers.seen_run(0, 50_000, 3000 + 59 + number % 2))
    heard = Counter("".join(sorted(one)) for one in zip(*found, strict=True))
    assert set(heard) <= {"fss", "sss"}
    assert heard["fss"] > 40_000, "both are refused only when they cross"


def test_different_nonces_at_once_are_all_fresh(world: World) -> None:
    found = racing(world, lambda peers, number: peers.seen_run(number << 40, 20_000, 3000))
    assert [Counter(one) for one in found] == [{"f": 20_000}] * 3
    again = world.peers()
    assert all(again.seen_run(number << 40, 20_000, 3001) == "s" * 20_000 for number in range(3))


def test_old_words_are_replaced_by_one_of_many(world: World) -> None:
    """Every slot holds something of former minutes."""
    with mmap.mmap(world.fds["load"], os.fstat(world.fds["load"]).st_size) as load:
        begin = world.peers().places()["replay"]
        old = (0x123456789ABC << 16 | 5).to_bytes(8, "little")
        load[begin : begin + 3 * LIMITS["slots"] * 8] = old * (3 * LIMITS["slots"])
    found = racing(world, lambda peers, _: peers.seen_run(0, 20_000, 3000))
    assert {"".join(sorted(heard)) for heard in zip(*found, strict=True)} == {"fss"}


def test_a_process_killed_half_way_leaves_what_it_heard(world: World) -> None:
    """Its last question may be remembered without an answer; nothing that was answered is lost."""
    for turn in range(10):
        told = os.pipe()

        def ask(turn: int = turn, told: int = told[1]) -> int:
            peers = Mesh(world.fds)
            number = 0
            while True:
                assert peers.seen(turn << 32 | number, 600) == FRESH
                os.write(told, b".")
                number += 1

        pid = in_child(ask)
        heard = 0
        while heard < 200 + 37 * turn:
            heard += len(os.read(told[0], 64))
        os.kill(pid, signal.SIGKILL)
        assert status_of(pid) == -signal.SIGKILL
        os.close(told[1])
        with os.fdopen(told[0], "rb") as rest:
            heard += len(rest.read())
        peers = world.peers()
        assert all(peers.seen(turn << 32 | number, 600) == SEEN for number in range(heard))
        assert peers.seen(turn << 32 | heard + 1, 600) == FRESH


def test_whatever_stands_there_the_answer_comes(world: World) -> None:
    """Workers write these words: they are input to each other."""
    peers = world.peers()
    begin, size = peers.places()["replay"], 3 * LIMITS["slots"] * 8
    with mmap.mmap(world.fds["load"], os.fstat(world.fds["load"]).st_size) as load:
        for word in (0xFFFFFFFFFFFFFFFF, 1, 0x8000000000000000, 3000 // 60 + 2):
            load[begin : begin + size] = word.to_bytes(8, "little") * (size // 8)
            assert set(peers.seen_run(0, 1000, 3000)) <= {"f", "s", "n"}
