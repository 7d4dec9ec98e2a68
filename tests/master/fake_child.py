"""A child for tests of the master: speaks the channel, accepts with plain sockets, and misbehaves on demand.

A worker sends each client its pid and index at once and keeps the connection open. ``RUNTIME/behaviour`` holds one
word that says how workers that start from now on behave: ``good``, ``silent`` (never ready), ``refuse``, ``exit``,
``deaf-engine`` (the engine side stops after being ready), ``deaf-python`` (likewise the Python side). What the boot
message told of this host among others stands in ``RUNTIME/boot-ROLE.json``.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from flyproxy import log
from flyproxy.boot import DUMP_SIGNAL, EXIT_MASTER, Boot, receive_boot
from flyproxy.channel import Channel, ChannelClosed
from tests.master.fake_shm import FakeRoot


class FakeWorker:
    """One thread: engine and Python side are two stamps that it writes."""

    def __init__(self, boot: Boot, channel: Channel, behaviour: str) -> None:
        assert boot.proc is not None
        self.boot, self.proc, self.channel, self.behaviour = boot, boot.proc, channel, behaviour
        self.root = FakeRoot(boot.segment_fds, writable=True)
        self.listeners: dict[int, tuple[int, socket.socket]] = {}
        self.accepting: set[int] = set()
        self.clients: set[socket.socket] = set()
        self.state = "starting"
        self.deadline = float("inf")
        self.engine_ns = self.python_ns = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        if self.behaviour == "exit":
            return 3
        if self.behaviour == "refuse":
            self.channel.send({"t": "refused", "why": "it was told to refuse"})
        loop.add_reader(self.boot.wake_fds[self.proc], self.follow_owners)
        loop.add_signal_handler(signal.SIGTERM, lambda: self.drain(5.0))
        listening = asyncio.ensure_future(self.listen())
        while not (listening.done() and listening.result() == "stop"):
            self.beat()
            self.follow_owners()
            if self.state == "starting" and self.behaviour not in ("silent", "refuse"):
                self.state = "ready"
                self.channel.send({"t": "ready"})
            if self.state == "draining" and (not self.clients or time.monotonic() > self.deadline):
                return 0
            await asyncio.sleep(0.02)
        return 0

    def beat(self) -> None:
        now = time.monotonic_ns()
        if self.state == "starting" or self.behaviour != "deaf-engine":
            self.engine_ns = now
        if self.state == "starting" or self.behaviour != "deaf-python":
            self.python_ns = now
        self.root.beat(self.proc, self.engine_ns, self.python_ns, len(self.clients))

    async def listen(self) -> str:
        try:
            while True:
                message, fds = await self.channel.recv()
                if message["t"] == "stop":
                    return "stop"
                self.obey(message, fds)
        except ChannelClosed:
            return "orphan"

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["t"] == "drain":
            self.drain(message["deadline"])
        elif message["t"] == "listeners":
            for number in message["remove"]:
                self.forget(number)
            for item, fd in zip(message["add"], fds, strict=True):
                self.listeners[item["id"]] = (item["slot"], socket.socket(fileno=fd))
            self.follow_owners()

    def forget(self, number: int) -> None:
        _, sock = self.listeners.pop(number)
        self.accepting.discard(number)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()

    def drain(self, seconds: float) -> None:
        self.state, self.deadline = "draining", time.monotonic() + seconds
        for number in list(self.listeners):
            self.forget(number)

    def follow_owners(self) -> None:
        loop = asyncio.get_running_loop()
        for number, (slot, sock) in self.listeners.items():
            mine = self.root.slot_owner(slot) == self.proc and self.behaviour != "deaf-engine"
            if mine and number not in self.accepting:
                self.accepting.add(number)
                loop.add_reader(sock, self.accept, sock)
            elif not mine and number in self.accepting:
                self.accepting.discard(number)
                loop.remove_reader(sock)

    def accept(self, sock: socket.socket) -> None:
        try:
            client, _ = sock.accept()
        except OSError:
            return
        client.setblocking(False)
        client.send(f"{os.getpid()} {self.boot.index}\n".encode())
        self.clients.add(client)
        asyncio.get_running_loop().add_reader(client, self.gone, client)

    def gone(self, client: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(client)
        self.clients.discard(client)
        client.close()


async def serve_single(boot: Boot, channel: Channel) -> int:
    """State and control: ready at once, and gone with the master. State repeats the ports in RUNTIME/ports at SIGUSR1,
    and works for some seconds without listening at SIGUSR2. Control answers and dies at SIGUSR1."""
    channel.send({"t": "ready"})
    if boot.role == "state":
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: say_ports(boot, channel))
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, work)
    else:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, last_words, channel)
    try:
        while True:
            message, _ = await channel.recv()
            if message["t"] == "stop":
                return 0
            if message["t"] == "ping":
                channel.send({"t": "pong"})
    except ChannelClosed:
        return EXIT_MASTER


def work() -> None:
    """Longer than a silent process may be in these tests (1.5 s), and far shorter than a working one."""
    begun = time.process_time()
    log.info("working", "hard")
    while time.process_time() - begun < 4.0:
        pass
    log.info("worked", "hard")


def last_words(channel: Channel) -> None:
    channel.send({"t": "pong"})
    os._exit(1)


def say_ports(boot: Boot, channel: Channel) -> None:
    words = Path(boot.runtime, "ports").read_text().split()
    ports = [(word.rstrip("t"), "waiting: tls" if word.endswith("t") else None) for word in words]
    channel.send({"t": "ports", "ports": [{"port": int(p), "waiting": w, "apps": ["web"]} for p, w in ports]})


async def main() -> int:
    faulthandler.register(DUMP_SIGNAL, all_threads=True, chain=False)
    channel = Channel.inherited()
    boot = await receive_boot(channel)
    told = {"epoch": boot.epoch, "backhaul_ports": boot.backhaul_ports, "cluster_key": boot.cluster_key.decode()}
    Path(boot.runtime, f"boot-{boot.role}.json").write_text(json.dumps(told))
    if boot.role != "worker":
        return await serve_single(boot, channel)
    behaviour = Path(boot.runtime, "behaviour")
    word = behaviour.read_text().strip() if behaviour.exists() else "good"
    log.debug("fake-worker", word)
    return await FakeWorker(boot, channel, word).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
