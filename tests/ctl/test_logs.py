"""``flyproxyctl logs`` on real files; nothing runs."""

import os
import subprocess
import sys
import threading

import pytest

from flyproxy.ctl.logs import LAST_LINES, belongs_to, tail
from tests.ctl.conftest import environment

EVERY = belongs_to(None)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "access.log"


def test_the_last_lines_come_first_and_in_order(log):
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    assert list(tail(str(log), False, EVERY)) == [f"line {n}" for n in range(100 - LAST_LINES, 100)]


def test_an_unfinished_line_is_not_shown(log):
    log.write_bytes(b"one\ntw")
    assert list(tail(str(log), False, EVERY)) == ["one"]


def test_only_the_lines_of_the_app_are_shown(log):
    log.write_text('{"app":"hello","n":1}\n{"app":"world","n":2}\nplain app=hello n=3\nnoise\n{"app":null}\n')
    assert list(tail(str(log), False, belongs_to("hello"))) == ['{"app":"hello","n":1}', "plain app=hello n=3"]


def test_following_shows_new_lines_also_those_that_come_in_pieces(log):
    log.write_bytes(b"old\n")
    lines = tail(str(log), True, EVERY)
    assert next(lines) == "old"
    with log.open("ab", buffering=0) as file:
        file.write(b"ne")
        threading.Timer(0.05, file.write, [b"w\n"]).start()
        assert next(lines) == "new"
    lines.close()


def test_following_goes_on_with_the_new_file_after_a_rotation(log):
    log.write_bytes(b"old\n")
    lines = tail(str(log), True, EVERY)
    next(lines)
    log.rename(log.with_suffix(".1"))
    log.write_bytes(b"fresh\n")
    assert next(lines) == "fresh"
    lines.close()


def test_following_notices_that_the_file_was_cut(log):
    log.write_bytes(b"old old old\n")
    lines = tail(str(log), True, EVERY)
    next(lines)
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(b"new\n")
    assert next(lines) == "new"
    lines.close()


@pytest.mark.parametrize(("access", "words"), [
    ("off", ["is off", "[log]", "flyproxyctl reload"]), ("stderr", ["stderr", "[log]"]), ("syslog", ["journalctl"]),
])
def test_without_a_file_it_says_what_to_change(ctl, tmp_path, access, words):
    config = tmp_path / "flyproxy.toml"
    config.write_text(f'[paths]\nruntime = "{tmp_path}"\n[log]\naccess = "{access}"\n')
    ran = ctl("-c", config, "logs", "--json")
    assert (ran.status, ran.error["code"]) == (1, "no-access-log")
    assert all(word in ran.err for word in words)


def test_the_file_of_the_settings_is_read_when_nothing_runs(ctl, tmp_path, log):
    log.write_text('{"app":"hello"}\n{"app":"world"}\n')
    config = tmp_path / "flyproxy.toml"
    config.write_text(f'[paths]\nruntime = "{tmp_path}"\n[log]\naccess = "{log}"\n')
    ran = ctl("-c", config, "logs", "-a", "world")
    assert (ran.status, ran.out) == (0, '{"app":"world"}\n')
    log.unlink()
    assert "cannot be read" in ctl("-c", config, "logs").err


def test_interrupting_follow_is_quiet(tmp_path, log):
    log.write_text("one\n")
    config = tmp_path / "flyproxy.toml"
    config.write_text(f'[paths]\nruntime = "{tmp_path}"\n[log]\naccess = "{log}"\n')
    process = subprocess.Popen([sys.executable, "-m", "flyproxy.ctl", "-c", config, "logs", "-f"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout.readline() == "one\n"
    process.send_signal(2)
    assert process.wait(10) == 130
    assert process.stderr.read().strip() == ""
    process.stdout.close()
    process.stderr.close()
