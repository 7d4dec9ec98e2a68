"""From pings and answers to the state of a link: pure, on a clock of the test's own."""

import pytest

from flyproxy.control.mesh import judge
from flyproxy.control.mesh.judge import BURST, DOWN_AFTER, FAST, NORMAL, UP_AFTER, Link

RTT = 0.02


class Trial:
    """A link and its clock; a letter is one ping: ``+`` answered, ``-`` lost, ``~`` answered too late."""

    def __init__(self, first=1000):
        self.link = Link(first)
        self.now = 50.0

    def run(self, fates, rtt=RTT):
        for fate in fates:
            sequence = self.link.ping(self.now)
            if fate == "+":
                self.link.answered(sequence, self.now + rtt)
            else:
                self.now += self.link.patience
                self.link.expire(self.now)
                if fate == "~":
                    self.link.answered(sequence, self.now + 0.01)
            self.now += FAST
        return self.link.state


@pytest.mark.parametrize(("fates", "state"), [
    ("", "unknown"), ("+", "direct"), ("-", "unknown"), ("--", "unknown"), ("---", "down"), ("--+", "direct"),
    ("+--", "direct"), ("+--+--", "direct"), ("+---", "down"), ("+---++", "down"), ("+---+++", "direct"),
    ("+---++-+++", "direct"), ("+---++-++", "down"), ("~", "direct"), ("+-~--", "direct"), ("+---~~~", "down"),
    ("+---++~+++", "direct"), ("+---++~++", "down"),
])
def test_three_lost_in_a_row_are_down_and_three_good_up_again(fates, state):
    assert (DOWN_AFTER, UP_AFTER) == (3, 3)
    assert Trial().run(fates) == state


def test_an_answer_outweighs_the_losses_of_pings_sent_before_it():
    link, now = Link(1000), 50.0
    for number in range(3):             # the peer does not know us yet and drops them
        link.ping(now + number * FAST)
    link.answered(link.ping(now + 3 * FAST), now + 3 * FAST + RTT)
    link.expire(now + 10)
    assert link.state == "direct"
    assert link.loss == 0.75


def test_each_fall_within_a_minute_needs_twice_as_many_good_ones():
    trial = Trial()
    trial.run("+")
    for needed in (3, 6, 12, 24, 24):
        assert trial.run("---") == "down"
        assert trial.run("+" * (needed - 1)) == "down"
        assert trial.run("+") == "direct"


def test_after_a_calm_minute_a_fall_is_the_first_again():
    trial = Trial()
    trial.run("+---+++---" + "+" * 6)
    trial.now += judge.CALM
    assert trial.run("---+++") == "direct"


def test_pinging_is_fast_at_the_start_and_after_changes_and_slow_between():
    trial = Trial()
    intervals = []
    for _ in range(BURST + 1):
        intervals.append(trial.link.interval)
        trial.run("+")
    assert intervals == [FAST] * BURST + [NORMAL]
    trial.run("-")
    assert trial.link.interval == FAST
    trial.run("+" * BURST)
    assert trial.link.interval == NORMAL
    trial.run("---" + "-" * BURST)
    assert (trial.link.state, trial.link.interval) == ("down", NORMAL)
    trial.run("+")
    assert trial.link.interval == FAST
    trial.run("++")
    assert (trial.link.state, trial.link.interval) == ("direct", FAST)


def test_queues_do_not_move_the_round_trip():
    trial = Trial()
    for number in range(64):
        trial.run("+", rtt=RTT if number % 3 == 0 else RTT + 0.1)
    assert trial.link.rtt == pytest.approx(RTT)


def test_a_path_that_became_longer_is_followed_within_the_window_and_without_a_fall():
    trial = Trial()
    trial.run("+" * 16)
    for _ in range(40):
        assert trial.run("+", rtt=0.25) == "direct"
    assert trial.link.rtt == pytest.approx(0.25, rel=0.01)


def test_a_path_that_became_shorter_is_followed_sooner():
    trial = Trial()
    trial.run("+" * 16, rtt=0.25)
    trial.run("+" * 16)
    assert trial.link.rtt < 0.03


def test_loss_makes_a_link_longer():
    trial = Trial()
    trial.run("+" * 16)
    assert trial.link.distance == pytest.approx(RTT)
    trial.run("-+" * 2 + "+" * 4)
    assert trial.link.loss == 2 / 16
    assert trial.link.distance == pytest.approx(RTT * 1.5)
    trial.run("+" * 16)
    assert trial.link.distance == pytest.approx(RTT)


def test_an_answer_that_comes_late_takes_its_loss_back():
    trial = Trial()
    trial.run("++~+")
    assert trial.link.loss == 0


def test_loss_in_either_direction_counts_as_the_peer_reports_it_and_as_we_hear_it():
    trial = Trial(first=1000)
    trial.run("+" * 16)
    trial.link.reported(1015, 0b0111_1111_1111_0111, 16)
    assert trial.link.loss == 2 / 16
    for sequence in range(1, 17):
        if sequence % 4:
            trial.link.hear(sequence, trial.now)
    assert trial.link.loss == pytest.approx(3 / 15)


def test_a_report_of_what_an_earlier_process_sent_says_nothing():
    trial = Trial(first=1000)
    trial.run("+")
    trial.link.reported(600, 1, 32)
    assert trial.link.loss == 0


def test_a_peer_that_listens_only_since_now_has_missed_nothing():
    trial = Trial(first=1000)
    trial.run("+" * 16)
    trial.link.reported(1015, 0b1, 1)
    assert trial.link.loss == 0


def test_an_older_report_does_not_replace_a_newer():
    trial = Trial(first=1000)
    trial.run("+" * 4)
    trial.link.reported(1003, 0b1111, 4)
    trial.link.reported(1002, 0b001, 3)
    assert trial.link.loss == 0


def test_only_a_ping_that_is_out_can_be_answered_and_only_once():
    trial = Trial()
    sequence = trial.link.ping(trial.now)
    assert not trial.link.answered(sequence + 1, trial.now)
    assert trial.link.answered(sequence, trial.now + RTT)
    assert not trial.link.answered(sequence, trial.now + RTT)


def test_an_answer_after_two_seconds_is_none():
    trial = Trial()
    sequence = trial.link.ping(trial.now)
    trial.link.expire(trial.now + 1.0)
    trial.link.expire(trial.now + judge.OVERDUE_KEPT)
    assert not trial.link.answered(sequence, trial.now + judge.OVERDUE_KEPT)


@pytest.mark.parametrize(("rtt", "patience"), [(0.001, 0.3), (0.1, 0.4), (0.25, 0.85), (0.5, 1.0)])
def test_how_long_an_answer_is_waited_for_follows_the_round_trip(rtt, patience):
    trial = Trial()
    assert trial.link.patience == 1.0
    trial.run("+", rtt=rtt)
    assert trial.link.patience == pytest.approx(patience)


def test_a_step_of_the_clock_gives_no_verdict_once_it_is_known():
    trial = Trial()
    trial.run("+")
    for _ in range(5):
        trial.link.ping(trial.now)
    trial.now += 3600
    trial.link.forget()
    trial.link.expire(trial.now)
    assert (trial.link.state, trial.link.loss) == ("direct", 0)


def test_a_clock_that_went_back_is_a_round_trip_of_nothing_never_a_negative_one():
    trial = Trial()
    sequence = trial.link.ping(trial.now)
    trial.link.answered(sequence, trial.now - 5)
    assert trial.link.rtt == 0


def refuse(trial, times):
    for _ in range(times):
        trial.link.refused(trial.link.ping(trial.now), trial.now)
        trial.now += NORMAL
    return trial.link.state


def test_refusals_take_no_link_down_until_a_restart_would_be_over():
    trial = Trial()
    trial.run("+")
    assert refuse(trial, int(judge.REFUSAL_GRACE / NORMAL)) == "direct"
    assert trial.link.loss == 0
    assert refuse(trial, DOWN_AFTER) == "down"


def test_a_host_that_has_just_begun_is_tried_directly_until_its_start_would_be_over():
    """Its record and its workers may be there before the process that answers."""
    trial = Trial()
    assert refuse(trial, 1 + int(judge.REFUSAL_GRACE / NORMAL)) == "unknown"
    assert refuse(trial, DOWN_AFTER) == "down"


def test_a_peer_with_a_new_epoch_is_looked_at_closely_and_owes_nothing():
    trial = Trial()
    trial.run("+" * 10)
    trial.link.hear(900, trial.now)
    trial.link.reported(trial.link.first + 9, 0b1, 10)
    trial.link.restarted()
    assert (trial.link.interval, trial.link.loss) == (FAST, 0)
    assert trial.link.hear(5, trial.now)
