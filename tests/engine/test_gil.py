"""The engine serves while this process's Python stands still."""

import ctypes

import pytest

from tests.engine.kit import VM, child, running

CLIENT = """
    import socket, sys, time
    peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    peer.settimeout(10)
    count, worst, until = 0, 0.0, None
    while until is None or time.monotonic() < until:
        begin = time.monotonic()
        peer.sendall(b"GET / HTTP/1.1\\r\\nHost: app.test\\r\\n\\r\\n")
        data = b""
        while not data.endswith(b"ok"):
            data += peer.recv(65536)
        if until is None:
            print("begun", flush=True)
            until = time.monotonic() + 1.5
            continue
        count += 1
        worst = max(worst, time.monotonic() - begin)
    print(count, worst, flush=True)
"""
HELD_US = 2_000_000


@pytest.mark.alone("how long a request waits at most")
def test_traffic_flows_while_the_gil_is_held_for_two_seconds():
    with child(VM) as vm, running(int(vm.stdout.readline())) as proxy, child(CLIENT, str(proxy.port)) as client:
        assert client.stdout.readline() == "begun\n"
        ctypes.PyDLL(None).usleep(HELD_US)      # PyDLL keeps the GIL during the call
        count, worst = client.stdout.readline().split()
    assert int(count) > 100
    assert float(worst) < 1.0
