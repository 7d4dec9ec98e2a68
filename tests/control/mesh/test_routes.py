"""The choice of a third host."""

from flyproxy.control.mesh.routes import STICK, Way, best

NEAR, FAR = Way("near", 0.01, 0.05), Way("far", 0.05, 0.05)


def test_without_a_way_there_is_none():
    assert best([], None) is None and best([], "gone") is None


def test_the_shortest_sum_is_taken():
    assert best([FAR, NEAR], None) == NEAR


def test_equal_ways_are_decided_by_name():
    assert best([Way("b", 1, 1), Way("a", 1, 1)], None) == Way("a", 1, 1)


def test_a_chosen_host_stays_while_no_other_is_much_shorter():
    kept = Way("kept", 0.0, NEAR.length * STICK)
    assert best([NEAR, kept], "kept") == kept
    assert best([NEAR, kept._replace(on=kept.on * 1.01)], "kept") == NEAR


def test_a_chosen_host_that_leads_nowhere_is_left():
    assert best([FAR], "near") == FAR
