"""Fixtures of the outside tests. Daemons and VMs live as long as a module; a failed test shows their logs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.client import RawClient
from tests.kit.daemon import ProxyDaemon
from tests.kit.twohops import SecureHops, TwoHops
from tests.kit.vm import ScriptedVM

RUNNING: list[ProxyDaemon] = []
KIND = {"2": TwoHops, "tls": SecureHops}.get(os.environ.get("FLYPROXY_TEST_HOPS", ""), ProxyDaemon)
FILES = 4096  # open files that the tests' own sockets need


@contextlib.contextmanager
def daemons() -> Iterator[Callable[..., ProxyDaemon]]:
    """Starts daemons (arguments of ProxyDaemon); each must end cleanly with the block."""
    mine: list[ProxyDaemon] = []

    def start(*args: Any, **settings: Any) -> ProxyDaemon:
        daemon = KIND(*args, **settings).start()
        mine.append(daemon)
        RUNNING.append(daemon)
        return daemon

    yield start
    problems = []
    for daemon in mine:
        RUNNING.remove(daemon)
        try:
            daemon.stop()
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def start_daemon() -> Iterator[Callable[..., ProxyDaemon]]:
    """Starts daemons that end with the module."""
    with daemons() as start:
        yield start


@pytest.fixture(scope="module")
def start_vm() -> Iterator[Callable[..., ScriptedVM]]:
    """Starts VMs (arguments of ScriptedVM); what they got must be valid HTTP, their scripts without error."""
    mine: list[ScriptedVM] = []

    def start(*args: Any, **options: Any) -> ScriptedVM:
        vm = ScriptedVM(*args, **options)
        mine.append(vm)
        return vm

    yield start
    for vm in mine:
        vm.stop()
    assert not (violations := [text for vm in mine for text in vm.violations]), (
        f"invalid requests reached a VM: {violations}"
    )
    assert not (failures := [error for vm in mine for error in vm.failures]), f"scripts of VMs failed: {failures!r}"


@pytest.fixture(scope="module")
def vm(start_vm: Callable[..., ScriptedVM]) -> ScriptedVM:
    """The one VM of app "web"."""
    return start_vm()


@pytest.fixture(scope="module")
def daemon(start_daemon: Callable[..., ProxyDaemon], vm: ScriptedVM) -> ProxyDaemon:
    """A proxy with default settings, one http listener and the app "web" on web.localhost."""
    started = start_daemon()
    started.add_app("web", machines=[vm.address], hostnames=["web.localhost"])
    return started


@pytest.fixture
def client(daemon: ProxyDaemon) -> Iterator[RawClient]:
    """A fresh connection to the http listener."""
    with daemon.client() as made:
        yield made


@pytest.fixture
def marker() -> str:
    """Text that occurs in no other test: finds what reached a VM."""
    return "m" + os.urandom(6).hex()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for number, daemon in enumerate(RUNNING):
            report.sections.append((f"log of flyproxy {number}", daemon.log()))
