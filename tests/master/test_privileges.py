"""Privileges: children end up without rights, and the user they switch to has been tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flyproxy import privileges
from flyproxy.master import startup

ROOT = Path(__file__).resolve().parents[2]
CONFINED = """
import sys
from flyproxy import privileges
privileges.confine(privileges.candidate())
print(open("/proc/self/status").read())
"""


def test_a_confined_process_has_no_rights_and_no_way_to_get_them() -> None:
    done = subprocess.run([sys.executable, "-c", CONFINED], cwd=ROOT, capture_output=True, text=True, check=True)
    status = dict(re.findall(r"^(\w+):[ \t]*(.*)$", done.stdout, re.MULTILINE))
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    identity = privileges.candidate()
    if identity is not None:
        assert set(status["Uid"].split()) == {str(identity.uid)}
        assert set(status["Gid"].split()) == {str(identity.gid)} and status["Groups"].strip() == ""
        assert int(status["CapBnd"], 16) == 0


def test_only_root_has_somebody_to_switch_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privileges.candidate() is None


@pytest.fixture
def me() -> privileges.Identity:
    return privileges.Identity("me", os.geteuid(), os.getegid())


def test_a_user_that_can_work_is_chosen(me: privileges.Identity, tmp_path: Path) -> None:
    assert privileges.choose(me, [str(tmp_path)], {"PYTHONPATH": str(ROOT)}) is None


def test_a_user_that_cannot_import_the_program_is_not(me: privileges.Identity, tmp_path: Path) -> None:
    (tmp_path / "flyproxy").mkdir()
    (tmp_path / "flyproxy" / "__init__.py").touch()
    (tmp_path / "flyproxy" / "boot.py").write_text("raise ImportError('torn')")
    why = privileges.choose(me, [], {"PYTHONPATH": str(tmp_path)})
    assert why == "it cannot import flyproxy (torn)"


def test_a_user_that_cannot_run_the_interpreter_is_not(
    me: privileges.Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "executable", str(program))
    assert privileges.choose(me, [], {}) == f"it cannot run {program}"


def test_a_folder_made_here_can_be_used_by_the_children(me: privileges.Identity, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "flyproxy"
    assert privileges.make(str(folder)) and not privileges.make(str(folder))
    privileges.give(str(folder), me)
    assert folder.stat().st_uid == me.uid and folder.stat().st_mode & 0o777 == 0o755


def test_a_user_that_cannot_reach_a_folder_is_not(me: privileges.Identity, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    why = privileges.choose(me, [missing], {"PYTHONPATH": str(ROOT)})
    assert why == f"it cannot write {missing} (No such file or directory)"


@pytest.mark.parametrize("why", [None, "it cannot write the folder"])
def test_new_folders_are_the_childrens_only_if_they_can_work_there(
    why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = privileges.Identity("nobody", 65534, 65534)
    monkeypatch.setattr(privileges, "candidate", lambda: identity)
    monkeypatch.setattr(privileges, "choose", lambda *_: why)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    assert startup._choose_identity([str(old), str(new)]) == (identity if why is None else None)
    assert old.stat().st_uid == os.geteuid()
    assert new.stat().st_uid == (identity.uid if why is None else os.geteuid())


def test_an_identity_travels_in_the_boot_message(me: privileges.Identity) -> None:
    assert privileges.Identity.from_json(me.to_json()) == me
    assert privileges.Identity.from_json(None) is None
