"""A message of several parts leaves whole and in order, copied together or as a vector."""

import errno
import socket

import pytest

from flyproxy._speedups._testing_net import writev


@pytest.fixture
def pair():
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        yield one, two


@pytest.mark.parametrize("length", [2, 2047, 2048, 2049, 60_000])
def test_parts_leave_in_order(pair, length):
    one, two = pair
    parts = [b"a" * (length // 2), b"", b"b" * (length - length // 2)]
    assert writev(one.fileno(), parts) == length
    assert two.recv(length + 1) == b"".join(parts)


@pytest.mark.parametrize("length", [100, 5000])
def test_refusals_are_told(pair, length):
    one, two = pair
    two.close()
    assert writev(one.fileno(), [b"x", b"y" * length]) == -errno.EPIPE


@pytest.mark.parametrize("length", [100, 5000])
def test_a_full_socket_takes_nothing(pair, length):
    one, _ = pair
    while writev(one.fileno(), [b"x", b"y" * length]) > 0:
        pass
    assert writev(one.fileno(), [b"x", b"y" * length]) == -errno.EAGAIN
