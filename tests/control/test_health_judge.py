"""From results to health: pure."""

import pytest

from flyproxy.control.health.judge import Judge

BAD = "status 500"


def judge(recorded="unknown", *names):
    made = Judge()
    made.replace([("m", name, recorded) for name in names or ("a",)])
    return made


@pytest.mark.parametrize(("problem", "health"), [(None, "passing"), (BAD, "critical")])
def test_the_first_result_settles_an_unknown_machine(problem, health):
    made = judge()
    assert made.health("m") == "unknown"
    assert made.result("m", "a", problem) == health


def test_one_failure_takes_nothing_out_and_two_in_a_row_do():
    made = judge("passing")
    assert [made.result("m", "a", problem) for problem in (BAD, None, BAD, BAD)] == [
        "passing", "passing", "passing", "critical"]


def test_a_critical_machine_comes_back_after_two_passes_in_a_row():
    made = judge("critical")
    assert [made.result("m", "a", problem) for problem in (None, BAD, None, None)] == [
        "critical", "critical", "critical", "passing"]


def test_a_machine_is_critical_while_any_check_is():
    made = judge("unknown", "a", "b")
    assert made.result("m", "a", None) == "unknown"
    assert made.result("m", "b", BAD) == "critical"
    made.result("m", "b", None)
    assert made.result("m", "b", None) == "passing"


def test_why_names_the_checks_that_fail():
    made = judge("unknown", "a", "b")
    made.result("m", "a", None)
    made.result("m", "b", BAD)
    assert made.why("m") == "b: status 500"


def test_the_recorded_health_is_where_a_restart_begins():
    assert judge("passing").result("m", "a", BAD) == "passing"
    assert judge("critical").result("m", "a", None) == "critical"


def test_a_replan_keeps_verdicts_and_forgets_what_is_gone():
    made = judge("unknown", "a", "b")
    made.result("m", "a", BAD)
    made.replace([("m", "a", "critical")])
    assert made.health("m") == "critical"
    made.replace([])
    assert made.health("m") == "unknown"
    assert made.result("m", "a", None) == "unknown"
