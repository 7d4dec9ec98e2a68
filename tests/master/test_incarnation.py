"""The boot epoch grows with every start, whatever the clock and the file say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flyproxy.master.incarnation import EPOCH_MAX, FILE, begin


def test_the_first_start_takes_the_clock(tmp_path: Path) -> None:
    now = begin(str(tmp_path), 1_800_000_000.9)
    assert (now.epoch, now.ports) == (1_800_000_000, ())


@pytest.mark.parametrize(("clock", "epoch"), [(999.0, 1001), (1000.9, 1001), (1001.0, 1001), (5000.0, 5000)])
def test_the_next_one_is_greater_even_if_the_clock_is_not(tmp_path: Path, clock: float, epoch: int) -> None:
    begin(str(tmp_path), 1000.0).remember((7443, 7444))
    now = begin(str(tmp_path), clock)
    assert (now.epoch, now.ports) == (epoch, (7443, 7444))


def test_a_start_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    begin(str(tmp_path), 5000.0)
    assert begin(str(tmp_path), 1000.0).epoch == 1000


def test_an_epoch_always_fits_into_its_32_bits(tmp_path: Path) -> None:
    begin(str(tmp_path), EPOCH_MAX).remember(())
    assert begin(str(tmp_path), 1000.0).epoch == EPOCH_MAX


def test_a_damaged_file_leaves_the_clock_and_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).write_text("{")
    assert begin(str(tmp_path), 1000.0).epoch == 1000
    assert "incarnation-lost" in capfd.readouterr().err


def test_the_file_follows_no_link_that_was_laid_in_its_way(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"{FILE}.{os.getpid()}.new").symlink_to(victim)
    begin(str(tmp_path), 1000.0).remember((1,))
    assert victim.read_text() == "precious" and begin(str(tmp_path), 1.0).epoch == 1001
