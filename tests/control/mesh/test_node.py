"""Whole networks of hosts in simulated time: every run is the same run."""

import random

import pytest

from flyproxy.control.mesh import vector, wire
from flyproxy.control.mesh.wire import Datagram
from tests.control.mesh.net import KEY, Net, losing


def settled(names="abc", delay=0.01, **options):
    net = Net(names, delay, **options)
    net.run(8)
    return net


def test_every_host_is_measured_from_both_sides():
    net = Net("abc")
    net.wires["a", "b"].delay, net.wires["b", "a"].delay = 0.01, 0.03
    net.run(20)
    for a, b in (("a", "b"), ("b", "a")):
        state, rtt_us, via = net.stations[a].words[b]
        assert (state, via) == ("direct", None)
        assert rtt_us == pytest.approx(40_000, abs=5_001)
    assert net.stations["a"].words["c"][1] == pytest.approx(20_000, abs=5_001)


def test_pings_go_out_once_a_second_and_never_in_step():
    net = settled("abcdef")
    before = {pair: wire.sent for pair, wire in net.wires.items()}
    net.run(100)
    for pair, sent in before.items():
        assert 180 <= net.wires[pair].sent - sent <= 225, pair     # a ping and a pong each


def test_a_cut_link_is_noticed_in_two_seconds_and_goes_through_the_nearest_third_host():
    net = settled("abcd")
    for wire_ in (*net.both("a", "c"), *net.both("b", "c")):
        wire_.delay = 0.002
    net.run(30)
    net.cut("a", "b")
    assert net.until(lambda: net.state("a", "b") == net.state("b", "a") == "via", 2.5) > 0.5
    _, rtt_us, via = net.stations["a"].words["b"]
    assert via == "c"
    assert rtt_us == net.stations["a"].words["c"][1] + net.stations["c"].words["b"][1]


def test_the_direct_way_is_taken_again_when_it_is_back():
    net = settled()
    net.cut("a", "b")
    net.until(lambda: net.state("a", "b") == "via", 3)
    net.run(30)
    net.mend("a", "b")
    assert net.until(lambda: net.state("a", "b") == net.state("b", "a") == "direct", 3) > 0.4
    assert net.stations["a"].words["b"][2] is None


@pytest.mark.parametrize("broken", [("a", "b"), ("b", "a")])
def test_a_link_that_works_one_way_only_is_down_on_both_sides(broken):
    net = settled("ab")
    net.wires[broken].cut()
    net.until(lambda: net.state("a", "b") == net.state("b", "a") == "down", 3)
    net.run(30)
    assert net.state("a", "b") == net.state("b", "a") == "down"
    assert net.link(*broken[::-1]).hears(net.now) is False
    assert net.link(*broken).hears(net.now) is True


def test_loss_one_way_is_seen_by_both_sides_and_makes_the_host_farther():
    net = settled("ab")
    clean = net.stations["a"].words["b"][1]
    net.wires["a", "b"].passes = lambda number: number % 8 != 0
    net.run(60)
    for a, b in (("a", "b"), ("b", "a")):
        assert net.state(a, b) == "direct"
        assert net.link(a, b).loss >= 1 / 16
        assert net.stations[a].words[b][1] > 1.2 * clean


def test_of_two_hosts_at_the_same_distance_the_lossy_one_counts_as_far():
    net = settled("abc")
    net.wires["a", "b"].passes = losing(0.1)
    net.run(60)
    assert net.stations["a"].words["b"][1] > net.stations["a"].words["c"][1]


def test_a_lossy_link_stays_direct_and_a_hopeless_one_does_not_flap():
    net = settled("ab")
    net.wires["a", "b"].passes = losing(0.1)
    net.run(600)
    assert [state for _, _, state in net.stations["a"].story] == ["direct"]
    net.wires["a", "b"].passes = losing(0.6)
    net.run(600)
    assert len(net.stations["a"].story) <= 12
    assert net.state("a", "b") == "down"


def test_a_link_that_flaps_is_damped_until_it_is_calm():
    net = settled("ab")
    for _ in range(20):
        net.cut("a", "b")
        net.run(3)
        net.mend("a", "b")
        net.run(3)
    flaps = len(net.stations["a"].story)
    assert flaps <= 12
    net.until(lambda: net.state("a", "b") == "direct", 10)


def test_a_path_that_became_ten_times_longer_never_goes_down():
    net = settled("ab", delay=0.01)
    for wire_ in net.both("a", "b"):
        wire_.delay = 0.3
    net.run(60)
    assert [state for _, _, state in net.stations["a"].story] == ["direct"]
    assert net.stations["a"].words["b"][1] == pytest.approx(600_000, rel=0.05)


def test_a_host_that_is_gone_is_down_for_all_and_no_third_host_is_tried():
    net = settled("abcd")
    net.stations["d"].stalled = True
    net.until(lambda: all(net.state(name, "d") == "down" for name in "abc"), 4)
    net.run(10)
    assert all(state == "direct" for name in "abc" for _, other, state in net.stations[name].story if other in "abc")


def test_a_partition_of_three_leaves_each_with_what_it_reaches():
    """a | b, then c is cut off too: from all directions nothing but the truth, and all is well again after."""
    net = settled("abc")
    net.cut("a", "b")
    net.until(lambda: net.state("a", "b") == net.state("b", "a") == "via", 3)
    net.cut("b", "c")
    net.until(lambda: net.state("a", "b") == "down" and net.state("c", "b") == "down", 4)
    assert (net.state("b", "a"), net.state("b", "c")) == ("down", "down")
    assert net.state("a", "c") == net.state("c", "a") == "direct"
    net.mend("b", "c")
    net.until(lambda: net.state("a", "b") == "via" and net.state("b", "a") == "via", 8)
    net.mend("a", "b")
    net.until(lambda: all(net.state(x, y) == "direct" for x in "abc" for y in "abc" if x != y), 15)


def test_when_the_third_host_goes_another_one_is_taken():
    net = settled("abcd")
    net.cut("a", "b")
    net.until(lambda: net.state("a", "b") == "via", 3)
    net.run(9)
    first = net.stations["a"].words["b"][2]
    net.stations[first].stalled = True
    other = ({"c", "d"} - {first}).pop()
    net.until(lambda: net.state("a", first) != "direct", 4)
    assert net.until(lambda: net.stations["a"].words["b"][2] == other, 1) < 0.05


def test_a_third_host_that_does_not_reach_the_target_any_more_is_left_soon():
    net = settled("abc")
    net.cut("a", "b")
    net.until(lambda: net.state("a", "b") == "via", 3)
    net.cut("c", "b")
    net.until(lambda: net.state("c", "b") != "direct", 3)
    assert net.until(lambda: net.state("a", "b") == "down", 3) < 1.5


def test_nobody_is_led_through_a_host_without_a_backhaul():
    net = settled("abe", edges="e")
    net.cut("a", "b")
    net.until(lambda: net.state("a", "b") == "down", 3)
    net.run(10)
    assert net.state("a", "b") == "down"


def test_an_edge_is_answered_and_never_probed():
    net = settled("abe", edges="e")
    assert net.state("e", "a") == net.state("e", "b") == "direct"
    assert net.state("a", "e") == "unknown"
    assert net.link("a", "e").rtt is None
    assert net.link("a", "e").hears(net.now)


def test_a_restarted_control_process_goes_on_in_the_same_epoch():
    """Its sequences begin above the old ones: nobody takes its pings for replays, nobody loses a host."""
    net = settled()
    for _ in range(3):
        net.start("a")
        net.run(2)
        assert not net.node("b").dropped["replayed"]
    assert net.link("b", "a").loss == net.link("a", "b").loss == 0
    assert all(state == "direct" for name in "bc" for _, _, state in net.stations[name].story)


def test_a_restarted_host_is_learnt_and_its_old_datagrams_refused():
    net = settled("ab")
    caught = list(net.wires["a", "b"].tap)
    net.start("a", epoch=101)
    net.until(lambda: net.node("b").peers["a"].epoch == 101, 3)
    for data in caught:
        assert net.inject("b", "a", data) is None
    assert net.node("b").dropped["old_epoch"] == len(caught) > 0


def test_the_epoch_of_the_record_is_the_least_that_is_believed():
    net = settled("ab")
    ping = made(epoch=100)
    net.node("b").follow({"a": net.hosts["a"]._replace(epoch=200)}, net.now)
    assert net.inject("b", "a", ping) is None
    assert net.node("b").dropped["old_epoch"] == 1


def test_a_host_that_stood_still_blames_nobody():
    net = settled("abc")
    net.stations["a"].stalled = True
    net.run(5)
    assert net.state("b", "a") == "down"
    net.resume("a")
    net.run(5)
    assert [state for _, _, state in net.stations["a"].story] == ["direct", "direct"]
    net.until(lambda: net.state("b", "a") == "direct", 5)


def made(source="a", to="b", sequence=10**9, key=KEY, kind=wire.PING, **fields):
    return wire.encode(Datagram(kind, source, fields.pop("epoch", 100), to, sequence, 5, **fields), key)


@pytest.mark.parametrize(("data", "source", "reason"), [
    (b"junk", "a", "malformed"),
    (made(to="c"), "a", "not_for_us"),
    (made(source="zz"), "a", "unknown_host"),
    (made(), "c", "wrong_address"),
    (made(key=wire.probe_key(b"another cluster's key")), "a", "not_authentic"),
    (made()[:-1] + b"\0", "a", "not_authentic"),
    (made(epoch=99), "a", "old_epoch"),
    (made(sequence=1), "a", "replayed"),
    (made(kind=wire.PONG), "a", "unexpected"),
], ids=lambda value: value if isinstance(value, str) and "_" in value else "")
def test_what_is_not_to_be_believed_is_dropped_counted_and_changes_nothing(data, source, reason):
    net = settled()
    before = repr(net.node("b").peers)
    assert net.inject("b", source, data) is None
    assert net.node("b").dropped[reason] == 1
    assert sum(net.node("b").dropped.values()) == 1
    assert repr(net.node("b").peers) == before


def test_a_ping_is_answered_once():
    net = settled()
    assert net.inject("b", "a", made()) is not None
    assert net.inject("b", "a", made()) is None
    assert net.node("b").dropped["replayed"] == 1


def test_hosts_come_and_go_with_the_table():
    net = settled("abc")
    node = net.node("a")
    node.follow({"c": net.hosts["c"]}, net.now)
    assert net.state("a", "b") == "unknown"
    node.follow({name: net.hosts[name] for name in "bc"}, net.now)
    net.until(lambda: net.state("a", "b") == "direct", 3)


def test_a_third_host_that_leaves_the_table_is_replaced():
    net = settled("abcd")
    net.cut("a", "b")
    net.until(lambda: net.state("a", "b") == "via", 3)
    first = net.stations["a"].words["b"][2]
    other = ({"c", "d"} - {first}).pop()
    net.node("a").follow({name: net.hosts[name] for name in ("b", other)}, net.now)
    net.until(lambda: net.stations["a"].words["b"][2] == other, 2)


def test_a_host_in_another_slot_is_published_there_and_taken_back_from_the_old_one():
    net = settled("ab")
    words = []
    net.node("a").board.publish = lambda *word: words.append(word)
    net.node("a").follow({"b": net.hosts["b"]._replace(slot=9)}, net.now)
    net.until(lambda: len(words) > 1, 3)
    assert words[0] == (2, "unknown", 0, None)
    assert words[1][:2] == (9, "direct")


def test_an_end_takes_every_word_back():
    net = settled()
    net.node("a").close(net.now)
    assert {word[0] for word in net.stations["a"].words.values()} == {"unknown"}


def test_hosts_that_need_several_datagrams_to_be_told_of_find_their_ways_too(monkeypatch):
    monkeypatch.setattr(vector, "ENTRIES_MAX", 4)
    names = "abcdefghijklmn"
    net = settled(names)
    away = random.Random(5).sample(names[1:], 6)
    for name in away:
        net.cut("a", name)
    net.until(lambda: all(net.state("a", name) == "via" for name in away), 6)
    net.run(3)
    assert all(net.stations["a"].words[name][2] not in away for name in away)
