"""systemd's protocol: datagrams with fields and descriptors, and sockets that come back at the next start."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyproxy.master.ledger import take_sockets
from flyproxy.master.notify import Notifier, inherited_fds
from tests.kit.wait import until
from tests.master.conftest import TWO
from tests.master.harness import RunningMaster


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A listening end and the value of NOTIFY_SOCKET."""
    name = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name if request.param == "abstract" else name)
        sock.settimeout(5)
        yield sock, "@" + name if request.param == "abstract" else name


def test_fields_travel_in_one_datagram_and_cannot_forge_others(systemd: tuple[socket.socket, str]) -> None:
    sock, name = systemd
    Notifier({"NOTIFY_SOCKET": name}).send(READY=1, STATUS="a\nSTOPPING=1")
    assert sock.recv(4096) == b"READY=1\nSTATUS=a STOPPING=1"


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.send(READY=1)
    notifier.store("x", [0])
    assert notifier.watchdog_every == 0.0


def test_the_watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_is_meant_for() -> None:
    assert Notifier({"WATCHDOG_USEC": "10000000"}).watchdog_every == 5.0
    assert Notifier({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}).watchdog_every == 0.0


def test_descriptors_are_given_to_be_kept_and_taken_back(systemd: tuple[socket.socket, str]) -> None:
    sock, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    kept = [os.memfd_create(str(number)) for number in range(256)]
    notifier.store("[::]:80", kept)
    got = 0
    for _ in range(2):
        text, rights, _, _ = sock.recvmsg(4096, socket.CMSG_LEN(4 * 253))
        assert text == b"FDSTORE=1\nFDNAME=[__]_80"
        fds = array.array("i", rights[0][2])
        got += len(fds)
        for fd in fds:
            os.close(fd)
    assert got == 256
    notifier.forget("[::]:80")
    assert sock.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=[__]_80"
    for fd in kept:
        os.close(fd)


def test_kept_sockets_come_back_once_and_are_no_longer_inherited() -> None:
    program = """
import os, socket
from flyproxy.master.ledger import take_sockets
from flyproxy.master.notify import inherited_fds
os.environ["LISTEN_PID"] = str(os.getpid())
fds = inherited_fds(os.environ)
assert len(fds) == 3 and not any(map(os.get_inheritable, fds)) and inherited_fds(os.environ) == []
(key, sockets), = take_sockets([], fds).items()
print(key[1], len(sockets))
"""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as other:
        def place() -> None:
            for number, fd in enumerate((server.fileno(), server.fileno(), other.fileno())):
                os.dup2(fd, 60 + number)
            for number in range(3):
                os.dup2(60 + number, 3 + number)

        done = subprocess.run(
            [sys.executable, "-c", program], preexec_fn=place, close_fds=False, capture_output=True, text=True,
            env={**os.environ, "LISTEN_FDS": "3"}, cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
        assert done.stdout.split() == [str(server.getsockname()[1]), "1"], done.stderr


def test_descriptors_meant_for_another_process_are_left_alone() -> None:
    assert inherited_fds({"LISTEN_PID": "1", "LISTEN_FDS": "3"}) == []
    assert take_sockets([], []) == {}


def test_sockets_that_outlived_every_process_are_served_again(make_master: Callable[..., RunningMaster]) -> None:
    """All of it was killed at once; systemd's store has the sockets, and nobody else listens."""
    with socket.socket() as stored:
        stored.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stored.bind(("127.0.0.1", 0))
        stored.listen()
        master = make_master(TWO.replace("127.0.0.1:0", f"127.0.0.1:{stored.getsockname()[1]}"))
        as_systemd = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{stored.fileno()}'
        master.launch(["bash", "-c", as_systemd, "bash"], pass_fds=[stored.fileno()])
    until(lambda: master.of("ready") or master.ended(), "the master is ready", 20)
    assert not master.ended(), master.text()
    sock, _ = master.connect()
    sock.close()
