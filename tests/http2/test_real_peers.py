"""The codec against peers that others wrote: nghttp, h2load and curl as clients."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable

from tests.http2.peer import Client, Peer

PATIENCE = 30  # seconds


async def run(*command: str, stdin: bytes = b"") -> str:
    """What the command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    out, _ = await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    assert process.returncode == 0, out.decode()
    return out.decode()


def with_server(test: Callable[[str, list[Peer]], Awaitable[None]]) -> None:
    async def main() -> None:
        peers: list[Peer] = []

        def accept() -> Peer:
            peers.append(Peer(True))
            return peers[-1]

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            await test(f"http://127.0.0.1:{port}", peers)
        assert all(not peer.codec.state["failed"] for peer in peers)
        assert all(peer.codec.state["slab"] == 0 for peer in peers)

    asyncio.run(main())


def test_curl_with_prior_knowledge() -> None:
    async def check(url: str, peers: list[Peer]) -> None:
        curl = ("curl", "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "20")
        assert await run(*curl, f"{url}/hello?a=b") == "GET /hello?a=b "
        assert await run(*curl, "--data-binary", "@-", f"{url}/post",
            stdin=b"x" * 300_000) == "POST /post " + "x" * 300_000
        out = await run(*curl, "--output", "/dev/null", "--write-out", "%{http_version} %{size_download}\n",
            f"{url}/2000000")
        assert out.split() == ["2", "2000000"]
        assert "content-length: 5000" in await run(*curl, "--head", f"{url}/5000")

    with_server(check)


def test_nghttp_with_many_streams_trailers_and_padding() -> None:
    async def check(url: str, peers: list[Peer]) -> None:
        out = await run("nghttp", "-v", "-n", "--padding=20", "--trailer=x-sum: 1", "--data=/etc/hostname", f"{url}/up")
        assert ":status: 200" in out
        out = await run("nghttp", "-n", "--stat", "--multiply=20", "--window-bits=10", f"{url}/50000")
        assert len(re.findall(r" 200 ", out)) == 20
        out = await run("nghttp", "-nv", "--continuation", f"{url}/100")
        assert "continuation-test-6" in out
        assert ":status: 200" in out

    with_server(check)


def test_h2load_gets_every_answer() -> None:
    async def check(url: str, peers: list[Peer]) -> None:
        out = await run("h2load", "-n", "2000", "-c", "4", "-m", "32", f"{url}/1000")
        assert "2000 succeeded, 0 failed" in out, out
        assert len(peers) == 4

    with_server(check)


def test_our_client_against_our_server_over_a_socket() -> None:
    async def check(url: str, peers: list[Peer]) -> None:
        port = int(url.rsplit(":", 1)[1])
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
        answers = await asyncio.wait_for(client.get(b"/x", *[b"/100000"] * 30), PATIENCE)
        assert answers[0] == (200, b"GET /x ")
        assert answers[1:] == [(200, bytes(100_000))] * 30
        assert client.transport is not None
        client.transport.close()

    with_server(check)


def test_the_peers_are_installed() -> None:
    assert [name for name in ("curl", "nghttp", "h2load") if shutil.which(name) is None] == []


