"""What hosts tell each other: all of it in turn, news first."""

from flyproxy.control.mesh.vector import Hearsay, Telling, Told
from flyproxy.control.mesh.wire import ENTRIES_MAX, host_hash


def rows(count, away=()):
    return [(host_hash(f"h{i}"), None if i in away else 0.01 + i / 1000) for i in range(count)]


def told(telling, to, pings):
    return [to.next(telling)[0] for _ in range(pings)]


def test_nothing_is_told_while_there_is_nobody():
    assert Told().next(Telling()) == (0, 0, b"")


def test_every_part_goes_out_in_turn():
    telling, to = Telling(), Told()
    telling.write(rows(3 * ENTRIES_MAX))
    assert sorted(told(telling, to, 3)) == [0, 1, 2]
    assert told(telling, to, 3) == told(telling, to, 3)


def test_the_hearer_knows_everything_after_one_round():
    telling, to, hearsay = Telling(), Told(), Hearsay()
    telling.write(rows(2 * ENTRIES_MAX + 5, away={7}))
    for _ in range(3):
        hearsay.take(*to.next(telling))
    assert hearsay.distance(host_hash("h7")) is None
    assert hearsay.distance(host_hash("nobody")) is None
    last = 2 * ENTRIES_MAX + 4
    assert hearsay.distance(host_hash(f"h{last}")) == 0.01 + last / 1000


def test_a_part_in_which_somebody_went_goes_first():
    telling, to = Telling(), Told()
    telling.write(rows(3 * ENTRIES_MAX))
    told(telling, to, 4)
    telling.write(rows(3 * ENTRIES_MAX, away={2 * ENTRIES_MAX}))
    assert told(telling, to, 3) == [2, 1, 0]


def test_a_changed_distance_is_no_news_but_is_told_in_turn():
    telling, to, hearsay = Telling(), Told(), Hearsay()
    telling.write(rows(2 * ENTRIES_MAX))
    told(telling, to, 2)
    telling.write([(name, 0.5) for name, _ in rows(2 * ENTRIES_MAX)])
    assert told(telling, to, 2) == [0, 1]
    hearsay.take(*to.next(telling))
    assert hearsay.distance(host_hash("h0")) == 0.5


def test_another_number_of_parts_makes_the_old_ones_void():
    telling, to, hearsay = Telling(), Told(), Hearsay()
    telling.write(rows(2 * ENTRIES_MAX))
    for _ in range(2):
        hearsay.take(*to.next(telling))
    telling.write(rows(1))
    hearsay.take(*to.next(telling))
    assert hearsay.distance(host_hash("h1")) is None


def test_of_two_parts_that_name_a_host_the_later_one_holds():
    hearsay, first, second = Hearsay(), Telling(), Telling()
    first.write([(host_hash("x"), 0.1)])
    second.write([(host_hash("x"), None)])
    hearsay.take(0, 2, first.parts[0])
    hearsay.take(1, 2, second.parts[0])
    assert hearsay.distance(host_hash("x")) is None
    hearsay.take(0, 2, first.parts[0])
    assert hearsay.distance(host_hash("x")) == 0.1
