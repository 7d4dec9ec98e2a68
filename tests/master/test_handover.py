"""What one program leaves to the next: the format, its seal, and what is done with nonsense."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import typing

import msgspec
import pytest

from flyproxy.master import handover, model
from flyproxy.master.handover import ENV, Envelope, Handover
from flyproxy.master.listeners import Book, Listeners
from flyproxy.settings import Settings, resolved, to_json

FORMATS = {1: "a219165cdcae615a"}
"""Of each version of the format, the digest of every field and type in it."""


def fields_of(kind: object, found: dict[str, str]) -> dict[str, str]:
    """``Class.field: type`` of a class and of every one that it names, however deep."""
    for inner in typing.get_args(kind):
        fields_of(inner, found)
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct)):
        for name, hint in typing.get_type_hints(kind).items():
            key = f"{kind.__name__}.{name}"
            if key not in found:
                found[key] = str(hint)
                fields_of(hint, found)
    return found


def test_a_change_of_the_format_has_a_new_number() -> None:
    text = "\n".join(f"{key}: {hint}" for key, hint in sorted(fields_of(Handover, {}).items()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert {handover.VERSION: digest} == {handover.VERSION: FORMATS.get(handover.VERSION)}, (
        "the format has changed: raise handover.VERSION and add its digest to FORMATS"
    )


def left() -> Handover:
    settings = resolved(Settings())
    policy = model.Policy(count=2, slots=2, procs=16)
    state = model.State(
        policy, children={7: model.Child(7, ("worker", 1), 3, 0, model.Phase.DRAINING, 5.0, kill_at=9.5)},
        seats={("worker", 0): model.Seat(spawn_at=1.0)}, owners=(7, None), waiting=((1, 2),), announced=True,
    )  # fmt: skip
    return Handover(
        program="1.2.3", settings=to_json(settings), lock=fd(), token="t", ctl=fd(), procs=16, segments={"root": fd()},
        wakes={0: fd()}, book=Listeners(2).book(), state=state, members=[handover.Member(7, 4242, fd(), fd())],
        restarts={"killed": 2}, epoch=99, backhaul_ports=(7443, 7444), next_token=5,
        askers=[handover.Asker(1, None, {"changed": ["region"]})], upgrader=None, wait_drained=False,
    )  # fmt: skip


def fd() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def test_what_is_left_arrives_as_it_was_and_is_close_on_exec_again() -> None:
    before = left()
    with handover.surviving(before.fds()):
        assert all(map(os.get_inheritable, before.fds()))
        env = handover.environment({"OTHER": "1"}, handover.seal(before))
        found = handover.receive(env)
        assert found is not None and found.handover == before and found.settings == resolved(Settings())
        assert env == {"OTHER": "1"}, "no child finds it"
        assert not any(map(os.get_inheritable, before.fds()))
    found.close()
    for number in before.fds():
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_the_state_is_sealed() -> None:
    memfd = handover.seal(left())
    with pytest.raises(PermissionError):
        os.write(memfd, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(memfd, 0)
    os.close(memfd)


def test_the_listeners_arrive_with_their_numbers_and_sockets() -> None:
    settings = resolved(msgspec.structs.replace(Settings(), app_ports=["1-65535"]))
    before = Listeners(2)
    ports = before.open_backhaul("127.0.0.1", 0, 2, ())
    before.set_ports([{"port": 1, "waiting": "waiting: tls", "apps": ["web"]}], settings)
    after = Listeners.from_book(2, msgspec.msgpack.decode(msgspec.msgpack.encode(before.book()), type=Book))
    assert after.rows() == before.rows() and after.book() == before.book()
    assert [end.port for end in after.endpoints()] == list(ports)
    before.close()


def test_a_start_finds_nothing() -> None:
    assert handover.receive({}) is None
    env = {ENV: f"{os.getpid() + 1}:0"}
    assert handover.receive(env) is None, "it was meant for another process"
    assert env == {}


@pytest.mark.parametrize("text", [b"", b"\xc1", msgspec.msgpack.encode({"v": 1}), msgspec.msgpack.encode([1])])
def test_nonsense_is_refused_with_what_happens_now(text: bytes) -> None:
    memfd = os.memfd_create("nonsense")
    os.write(memfd, text)
    with pytest.raises(ValueError, match=r"cannot be read: .*; its workers go on, and the next master adopts them"):
        handover.receive({ENV: f"{os.getpid()}:{memfd}"})


def test_of_another_format_the_descriptors_are_known(capfd: pytest.CaptureFixture[str]) -> None:
    kept, memfd = fd(), os.memfd_create("other")
    os.write(memfd, msgspec.msgpack.encode(Envelope(handover.VERSION + 1, [kept], msgspec.Raw(b"\xc0"))))
    found = handover.receive({ENV: f"{os.getpid()}:{memfd}"})
    assert found is not None and found.handover is None and found.fds == [kept]
    assert "handover-unknown" in capfd.readouterr().err
    os.close(kept)
