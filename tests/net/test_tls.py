"""TLS on sockets: what it gives back is what a plain socket would give, whatever the records do."""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from flyproxy._speedups._testing_tls import Party, Wire
from tests.kit.pki import Authority, now
from tests.net.kit import AGAIN, Pair, context_of, party, sockets

NAME = "ams-1"
BOTH = pytest.mark.parametrize("server", [True, False], ids=["we are asked", "we ask"])
Files = dict[str, str]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    """Of both sides."""
    return authority.sign(NAME)


@pytest.fixture
def pair(files: Files) -> Pair:
    return Pair(files, context_of(files), server=True, name=NAME)


def our_pair(files: Files, room: int = 0) -> tuple[Wire, Wire, Party, list[socket.socket]]:
    """Both sides ours, under one party, after the handshake."""
    ends = sockets(room)
    shared = party(files)
    asks, asked = Wire(shared, ends[0].fileno(), NAME.encode()), Wire(shared, ends[1].fileno())
    for _ in range(3):
        done = (asks.handshake(), asked.handshake())
    assert done == (1, 1)
    return asks, asked, shared, list(ends)


# -- bytes


@BOTH
@pytest.mark.parametrize("piece", [1, 2, 7, 500, 5000])
def test_a_handshake_may_come_in_any_pieces(files: Files, server: bool, piece: int) -> None:
    pair = Pair(files, context_of(files, not server), server=server, name=NAME, piece=piece)
    pair.says(b"hello")
    assert pair.wire.recv(100) == b"hello" and pair.wire.recv(100) == AGAIN
    assert pair.wire.send(b"and you") == 7 and pair.hears() == b"and you"


@pytest.mark.parametrize("piece", [1, 3, 22, 1000, 16405, 1 << 20])
def test_records_may_come_in_any_pieces(files: Files, piece: int) -> None:
    pair = Pair(files, context_of(files), server=True, name=NAME, piece=piece)
    said = [os.urandom(n) for n in (1, 20, 300, 4000 if piece < 3 else 50_000)]
    heard = b""

    def look() -> None:
        nonlocal heard
        heard += pair.all()

    for data in said:
        pair.says(data, look)
    assert heard == b"".join(said) and pair.party.used == 0


@pytest.mark.parametrize("n", [1, 8, 1000, 16384, 65536])
@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 65535, 65536, 65537, 150_000])
def test_what_is_left_over_is_there_without_another_word_from_the_socket(pair: Pair, size: int, n: int) -> None:
    data = os.urandom(size)
    pair.says(data)
    heard, first = b"", True
    while isinstance(got := pair.wire.recv(n if size < 70_000 or n > 1 else 10), bytes):
        heard += got
        assert first or got
        first = False
    assert (heard == data, got, pair.wire.stashed, pair.party.used) == (True, AGAIN, 0, 0)


def test_a_short_result_means_that_nothing_is_left(pair: Pair) -> None:
    for size in (1, 100, 20_000, 65_535):
        pair.says(os.urandom(size))
        assert len(pair.wire.recv(65_536)) == size  # type: ignore[arg-type]
        assert pair.wire.recv(65_536) == AGAIN


def test_two_connections_read_by_turns_do_not_mix(files: Files) -> None:
    shared = party(files)
    pairs = [Pair(files, context_of(files), server=True, name=NAME, of=shared) for _ in range(2)]
    said = [os.urandom(40_000) for _ in pairs]
    for pair, data in zip(pairs, said, strict=True):
        pair.says(data)
    heard = [b"", b""]
    while any(len(a) < len(b) for a, b in zip(heard, said, strict=True)):
        for at, pair in enumerate(pairs):
            got = pair.wire.recv(8)
            heard[at] += got if isinstance(got, bytes) else b""
    assert heard == said and shared.used == 0


@pytest.mark.parametrize("size", [1, 16384, 65536, 65537, 300_000])
def test_what_is_sent_arrives(pair: Pair, size: int) -> None:
    data = os.urandom(size)
    sent, heard = 0, b""
    while sent < size:
        taken = pair.wire.send(data[sent:])
        sent += max(taken, 0)
        heard += pair.hears()
    assert heard + pair.hears() == data and pair.party.used == 0


@pytest.mark.parametrize("sizes", [(1,), (5, 5), (0, 7, 0), (16_384, 1), (65_536, 3, 65_536), (70_000, 70_000)])
def test_pieces_are_sent_as_one_text(pair: Pair, sizes: tuple[int, ...]) -> None:
    parts = [os.urandom(n) for n in sizes]
    whole = b"".join(parts)
    sent, heard = pair.wire.writev(parts), pair.hears()
    while sent < len(whole):
        taken = pair.wire.writev([whole[sent:]])
        sent += max(taken, 0)
        heard += pair.hears()
    assert heard == whole


def test_bytes_count_as_taken_when_the_kernel_has_their_records(files: Files) -> None:
    asks, asked, shared, _ends = our_pair(files, room=8_000)
    assert asks.send(b"x" * 60_000) == AGAIN and asks.blocked, "the kernel has a part, and nothing is taken"
    assert asks.send(b"x" * 60_000) == AGAIN, "it has no room for more"
    heard = b""
    while (taken := asks.send(b"x" * 60_000 + b"y")) == AGAIN:
        got = asked.recv(65_536)
        heard += got if isinstance(got, bytes) else b""
    assert taken == 60_001 or (taken == 60_000 and asks.send(b"y") in (1, AGAIN))
    while isinstance(got := asked.recv(65_536), bytes):
        heard += got
    assert heard.rstrip(b"y") == b"x" * 60_000
    assert shared.used == 0 or asks.blocked


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_at_once_through_a_narrow_pipe(files: Files, seed: int) -> None:
    chance = random.Random(seed)
    asks, asked, shared, _ends = our_pair(files, room=chance.choice([5_000, 20_000, 100_000]))
    wires = [asks, asked]
    said = [chance.randbytes(700_000), chance.randbytes(500_000)]
    sent, heard = [0, 0], [b"", b""]
    for _ in range(200_000):
        at = chance.randrange(2)
        if sent[at] < len(said[at]) and chance.random() < 0.5:
            taken = wires[at].send(said[at][sent[at] : sent[at] + chance.choice([70_000, 200_000])])
            assert taken > 0 or taken == AGAIN
            sent[at] += max(taken, 0)
        got = wires[1 - at].recv(chance.choice([1, 9, 1_000, 16_384, 65_536]))
        heard[at] += got if isinstance(got, bytes) else b""
        if chance.random() < 0.01:
            assert wires[at].update_keys() == 1
        if [len(one) for one in heard] == [len(one) for one in said]:
            break
    assert heard == said
    for wire in wires:
        wire.free()
    assert (shared.used, shared.open) == (0, 0)


@BOTH
def test_keys_are_updated_in_the_middle(files: Files, server: bool) -> None:
    """Python answers the update of ours that asks for its own (RFC 8446 4.6.3)."""
    pair = Pair(files, context_of(files, not server), server=server, name=NAME)
    for turn in range(3):
        data = os.urandom(50_000)
        assert pair.wire.update_keys() == 1 and pair.wire.send(data) == len(data)
        assert pair.hears() == data, turn
        pair.says(data)
        assert pair.all() == data


# -- ends


def test_an_end_that_was_said_is_an_end_and_what_came_before_it_is_there(pair: Pair) -> None:
    assert pair.peer.tls.write(b"last") == 4
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.tls.unwrap()
    pair.peer.give(lambda: None)
    assert not pair.wire.over
    assert pair.wire.recv(100) == b"last" and pair.wire.over, "the end is known, though the socket says nothing more"
    assert pair.wire.recv(100) == b"" == pair.wire.recv(100)


def test_an_end_that_was_not_said_is_a_truncation(pair: Pair) -> None:
    pair.says(b"last")
    pair.peer.sock.close()
    assert pair.wire.recv(100) == b"last"
    assert pair.wire.recv(100) == -errno.ECONNRESET == pair.wire.recv(100)


def test_an_end_in_the_middle_of_a_record_is_a_truncation(pair: Pair) -> None:
    pair.peer.tls.write(b"a whole record")
    pair.peer.sock.sendall(pair.peer.go.read()[:-1])
    assert pair.wire.recv(100) == AGAIN
    pair.peer.sock.close()
    assert pair.wire.recv(100) == -errno.ECONNRESET


def test_after_our_end_the_other_side_may_go_on(pair: Pair) -> None:
    assert pair.wire.send(b"last") == 4 and pair.wire.end() == 0
    assert pair.hears() == b"last"
    pair.says(b"I am not done")
    assert pair.wire.recv(100) == b"I am not done"


def test_after_their_end_we_may_go_on(files: Files) -> None:
    asks, asked, _, _ends = our_pair(files)
    assert asks.end() == 0 and asked.recv(10) == b""
    assert asked.send(b"I am not done") == 13 and asks.recv(100) == b"I am not done"
    assert asked.end() == 0 and asks.recv(10) == b""


def test_an_end_waits_for_room(files: Files) -> None:
    asks, asked, _, _ends = our_pair(files, room=8_000)
    data = b"x" * 40_000
    sent, heard = 0, b""
    while sent < len(data) or (result := asks.end()) == AGAIN:
        if sent < len(data):
            sent += max(asks.send(data[sent:]), 0)
        got = asked.recv(5_000)
        heard += got if isinstance(got, bytes) else b""
    while got := asked.recv(5_000):
        assert isinstance(got, bytes)
        heard += got
    assert (result, heard) == (0, data)


def test_who_is_given_up_says_its_end(pair: Pair) -> None:
    pair.wire.free()
    pair.peer.take()
    assert pair.peer.tls.read(10) == b""


def test_a_reset_is_a_reset(files: Files) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    shared = party(files)
    asks, asked = Wire(shared, near.fileno(), NAME.encode()), Wire(shared, far.fileno())
    near.setblocking(False)
    far.setblocking(False)
    while (asks.handshake(), asked.handshake()) != (1, 1):
        pass
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    assert asks.recv(10) == -errno.ECONNRESET
    near.close()


# -- who is believed


def forged(kind: str, authority: Authority, folder: Path) -> Files:
    other = Authority(folder, "other")
    long_ago = now() - timedelta(days=2)
    return {
        "another CA": lambda: {**other.sign(NAME), "ca": str(authority.ca)},
        "expired": lambda: authority.sign(NAME, file="expired", begins=long_ago, ends=now() - timedelta(hours=1)),
        "not yet valid": lambda: authority.sign(NAME, file="early", begins=now() + timedelta(hours=1)),
        "another name": lambda: authority.sign("fra-1"),
        "a wildcard": lambda: authority.sign("*", file="wild"),
    }[kind]()


@pytest.mark.parametrize("kind", ["another CA", "expired", "not yet valid", "another name", "a wildcard"])
def test_a_server_that_is_not_whom_we_ask_is_left_and_told(
    files: Files, authority: Authority, tmp_path: Path, kind: str
) -> None:
    pair = Pair(files, context_of(forged(kind, authority, tmp_path), True), server=False, name=NAME, greet=False)
    result, error = pair.greet()
    assert result == -errno.EPROTO == pair.wire.handshake()
    assert error is not None and "ALERT" in str(error.reason)
    assert pair.wire.recv(10) == -errno.EPROTO == pair.wire.send(b"x")


@pytest.mark.parametrize("kind", ["another CA", "expired", "not yet valid"])
def test_a_client_that_is_nobody_is_left_and_told(
    files: Files, authority: Authority, tmp_path: Path, kind: str
) -> None:
    pair = Pair(files, context_of(forged(kind, authority, tmp_path)), server=True, name=NAME, greet=False)
    assert pair.greet()[0] == -errno.EPROTO
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        pair.hears()


def odd(change: Callable[[ssl.SSLContext], object]) -> Callable[[Files], ssl.SSLContext]:
    def make(files: Files) -> ssl.SSLContext:
        made = context_of(files)
        change(made)
        return made

    return make


def bare(files: Files) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(files["ca"])
    made.set_alpn_protocols(["flyproxy"])
    return made


def old(made: ssl.SSLContext) -> None:
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2


def no_alpn(files: Files) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(files["ca"])
    made.load_cert_chain(files["cert"], files["key"])
    return made


@pytest.mark.parametrize("make", [bare, no_alpn, odd(lambda made: made.set_alpn_protocols(["h2"])), odd(old)],
                         ids=["no certificate", "no protocol", "another protocol", "TLS 1.2"])  # fmt: skip
def test_a_client_that_does_not_do_as_we_want_is_left(
    files: Files, make: Callable[[Files], ssl.SSLContext]
) -> None:
    pair = Pair(files, make(files), server=True, name=NAME, greet=False)
    assert pair.greet()[0] == -errno.EPROTO


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x00\x05hello", b"\x16" * 500, b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_is_no_handshake(files: Files, said: bytes) -> None:
    near, far = sockets()
    wire = Wire(party(files), near.fileno())
    far.sendall(said)
    assert wire.handshake() == -errno.EPROTO == wire.recv(10)


def test_a_socket_that_ends_in_the_handshake_ends_it(files: Files) -> None:
    near, far = sockets()
    wire = Wire(party(files), near.fileno(), NAME.encode())
    assert wire.handshake() == 0
    far.close()
    assert wire.handshake() < 0


def test_a_certificate_is_for_its_dns_names_alone(authority: Authority, files: Files) -> None:
    theirs = authority.sign("fra-1", "fra-2", "*.fra", file="several")
    pair = Pair(files, context_of(theirs), server=True, name=NAME)
    assert [pair.wire.names(name) for name in (b"fra-1", b"fra-2", b"fra", b"fra-3", b"a.fra", NAME.encode())] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


def test_several_authorities_are_believed(authority: Authority, tmp_path: Path) -> None:
    """So that one CA can follow another."""
    other = Authority(tmp_path, "other")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.ca.read_bytes() + other.ca.read_bytes())
    new, old_one = ({**one.sign(NAME, file="rolled"), "ca": str(both)} for one in (other, authority))
    for ours, theirs in ((new, old_one), (old_one, new)):
        Pair(ours, context_of(theirs), server=True, name=NAME).says(b"x")


@BOTH
def test_certificates_between_the_own_one_and_the_ca_are_sent_along(
    authority: Authority, files: Files, server: bool
) -> None:
    below = Authority(authority.folder, "below", above=authority).sign(NAME, file="below")
    Pair(below, context_of(files, not server), server=server, name=NAME).says(b"x")
    Pair(files, context_of(below, not server), server=server, name=NAME).says(b"x")
    alone = authority.folder / "alone.pem"
    alone.write_bytes(Path(below["cert"]).read_bytes().partition(b"\n-----BEGIN")[0] + b"\n")
    pair = Pair({**below, "cert": str(alone)}, context_of(files, not server), server=server, name=NAME, greet=False)
    assert pair.greet()[1] is not None, "the CA alone does not lead to it"


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_files_that_cannot_be_used_are_named(files: Files, name: str) -> None:
    texts = {kind: Path(path).read_bytes() for kind, path in files.items()}
    with pytest.raises(ValueError, match=f"^{name}: "):
        Party(**{**texts, name: b"no PEM\n"})


def test_a_key_of_another_certificate_is_refused(files: Files, authority: Authority) -> None:
    texts = {kind: Path(path).read_bytes() for kind, path in files.items()}
    with pytest.raises(ValueError, match=r"^key: .*values mismatch"):
        Party(**{**texts, "key": Path(authority.sign("x-1")["key"]).read_bytes()})
