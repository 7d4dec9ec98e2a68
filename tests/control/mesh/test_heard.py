"""Which pings came: replays refused, gaps counted."""

import pytest

from flyproxy.control.mesh.heard import WINDOW, Heard, missing


def after(*sequences):
    heard = Heard()
    for sequence in sequences:
        heard.take(sequence)
    return heard


def share(heard, last=16):
    return missing(heard.bits, heard.count, last)


def test_every_sequence_is_taken_once_in_any_order():
    heard = Heard()
    assert [heard.take(sequence) for sequence in (10, 12, 11, 12, 11, 10, 13)] == [
        True, True, True, False, False, False, True]


def test_what_is_older_than_the_window_is_taken_for_a_replay():
    assert not after(100).take(100 - WINDOW)
    assert after(100).take(101 - WINDOW)


def test_bit_i_stands_for_the_highest_minus_i():
    heard = after(10, 12, 13)
    assert (heard.high, heard.bits) == (13, 0b1011)


def test_the_share_that_is_missing():
    assert share(after(10, 12, 13)) == 0.25
    assert share(after(*range(10, 50))) == 0
    assert share(Heard()) == 0


def test_nothing_is_missed_before_the_first_one():
    assert share(after(1000)) == 0


def test_a_peer_that_begins_anew_far_ahead_has_lost_nothing():
    heard = after(*range(100, 110), 5000, 5001)
    assert share(heard) == 0
    assert not heard.take(109)


@pytest.mark.parametrize(("bits", "count", "expected"), [
    (0b1, 32, 0.75), (0b1111, 32, 0.0), (0b1, 1, 0.0), (0b1, 0, 0.0), (0b1, -5, 0.0), (0b01, 2, 0.5)])
def test_only_bits_that_count_are_counted(bits, count, expected):
    assert missing(bits, count, 4) == expected


def test_as_many_bits_count_as_the_view_has_seen():
    assert [after(*range(10, 10 + n)).count for n in (0, 1, 2, 40)] == [0, 1, 2, WINDOW]
