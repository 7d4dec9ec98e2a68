"""The layering check finds no breach here, and finds each kind of breach where one is planted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guards.layering import REPOSITORY, breaches


def test_no_breach() -> None:
    assert breaches(REPOSITORY) == []


def plant(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


@pytest.mark.parametrize(
    ("path", "line", "word"),
    [
        ("flyproxy/_speedups/mem/buf.pyx", "from flyproxy._speedups.shm.table cimport Table", "mem may cimport"),
        (
            "flyproxy/_speedups/proto/http1.pyx",
            "from flyproxy._speedups.net.sockets cimport accept",
            "proto may cimport",
        ),
        (
            "flyproxy/_speedups/net/reactor.pxd",
            "from flyproxy._speedups.route.choose cimport Choose",
            "net may cimport",
        ),
        (
            "flyproxy/_speedups/route/choose.pyx",
            "from flyproxy._speedups.proto.http1 cimport Slice",
            "route may cimport",
        ),
        ("flyproxy/_speedups/flow/exchange.pyx", "from flyproxy._speedups.engine cimport Engine", "flow may cimport"),
        ("flyproxy/_speedups/engine.pyx", "from flyproxy import settings", "no Python module of ours"),
        ("flyproxy/_speedups/engine.pyx", "import flyproxy.log", "no Python module of ours"),
        ("flyproxy/_speedups/flow/exchange.pyx", "from flyproxy._speedups._testing cimport peek", "test door"),
        ("flyproxy/master/main.py", "from flyproxy.worker import main", "never import each other"),
        ("flyproxy/worker/main.py", "import flyproxy.master.slots", "never import each other"),
        (
            "flyproxy/control/main.py",
            "from flyproxy._speedups.engine import Engine",
            "may import flyproxy._speedups.engine",
        ),
        (
            "flyproxy/ctl/main.py",
            "from flyproxy._speedups.shm import counters",
            "may import flyproxy._speedups.shm.counters",
        ),
        ("flyproxy/control/main.py", "from flyproxy._speedups.shm.table import TableWriter", "may write the table"),
        ("flyproxy/worker/main.py", "import aiohttp", "workers load no aiohttp"),
        ("flyproxy/state/main.py", "from flyproxy._speedups import _testing", "test door"),
    ],
)
def test_planted_breach_is_found(tmp_path: Path, path: str, line: str, word: str) -> None:
    plant(tmp_path, path, "X = 1\n" + line)
    [breach] = breaches(tmp_path)
    assert breach.startswith(f"{path}:")
    assert word in breach


def test_forbidden_library_is_found_behind_a_module_of_ours(tmp_path: Path) -> None:
    plant(tmp_path, "flyproxy/worker/main.py", "from flyproxy import log")
    plant(tmp_path, "flyproxy/log.py", "import opentelemetry.sdk")
    [breach] = breaches(tmp_path)
    assert breach.startswith("flyproxy/log.py:1:")


def test_what_is_allowed_is_no_breach(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "flyproxy/_speedups/flow/exchange.pyx",
        "from flyproxy._speedups.proto.http1 cimport Slice\n"
        "from flyproxy._speedups.errors cimport ERR_PH01\nfrom flyproxy._speedups.flow.pool cimport take",
    )
    plant(tmp_path, "flyproxy/state/publish.py", "from flyproxy._speedups.shm.table import TableWriter")
    plant(tmp_path, "flyproxy/worker/main.py", "from flyproxy._speedups.engine import Engine\nimport uvloop")
    assert breaches(tmp_path) == []
