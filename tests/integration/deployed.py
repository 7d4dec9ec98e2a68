"""An app of counting machines on a daemon, and clients of it whose requests are all under way at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from tests.kit.client import RawClient, Response
from tests.kit.counting import CountingVM
from tests.kit.daemon import ProxyDaemon
from tests.kit.wait import until

FAR = "zrh"
StartVM = Callable[..., CountingVM]


@contextlib.contextmanager
def counting_vms() -> Iterator[StartVM]:
    """Starts machines (arguments of CountingVM); at the end they answer all that still waits."""
    made: list[CountingVM] = []

    def start(name: str, hold: bool = False, think: float = 0.0) -> CountingVM:
        made.append(CountingVM(name, hold, think))
        return made[-1]

    yield start
    for vm in made:
        vm.release()
        vm.stop()


def wait_busy(machines: Sequence[CountingVM], count: int) -> None:
    """Until the machines have ``count`` requests together."""
    until(lambda: sum(vm.busy for vm in machines) == count, f"the machines have {count} requests", every=0.001)


class Deployed:
    """An app on a daemon. ``near`` and ``far`` are its machines in the host's own and in another region."""

    def __init__(
        self, daemon: ProxyDaemon, name: str, near: Sequence[CountingVM], far: Sequence[CountingVM] = (),
        limits: str = "", balance: str = "", checks: bool = False,
    ) -> None:  # fmt: skip
        self.daemon, self.name, self.host = daemon, name, f"{name}.localhost"
        text = f"[http_service]\ninternal_port = 8080\n{balance}\n"
        if limits:
            text += f"[http_service.concurrency]\n{limits}\n"
        if checks:
            text += '[[http_service.checks]]\ninterval = "1s"\ntimeout = "1s"\ngrace_period = "0s"\npath = "/up"\n'
        daemon.add_app(name, text, hostnames=[self.host])
        for region, machines in (("", near), (FAR, far)):
            for vm in machines:
                options = ["--region", region] if region else []
                daemon.ctl("machines", "add", self.id(vm), "-a", name, "--address", vm.address, *options)

    def id(self, vm: CountingVM) -> str:
        return f"{self.name}-{vm.name}"

    def cordon(self, vm: CountingVM, verb: str = "cordon") -> None:
        self.daemon.ctl("machines", verb, self.id(vm))

    def health(self, vm: CountingVM) -> str:
        health: str = self.daemon.ctl("machines", "show", self.id(vm))["health"]
        return health

    def get(self, client: RawClient, headers: str = "") -> str:
        """The name of the machine that answered."""
        answer = client.get(host=self.host, headers=headers)
        assert answer.status == 200, f"{answer.status} {answer.error}"
        return answer.body.decode().strip()

    def once(self, headers: str = "") -> str:
        """The same on a new connection, so on any worker."""
        with self.daemon.client() as client:
            return self.get(client, headers)


class Askers:
    """Clients that each have one request under way."""

    def __init__(self, app: Deployed) -> None:
        self.app = app
        self.clients: list[RawClient] = []

    def __enter__(self) -> Askers:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.sock.close()

    def ask(self, count: int = 1, target: str = "/", headers: str = "") -> RawClient:
        """``count`` more requests; the last one's connection."""
        for _ in range(count):
            self.clients.append(self.app.daemon.client(timeout=30))
            self.clients[-1].request("GET", target, self.app.host, headers)
        return self.clients[-1]

    def answers(self) -> list[Response]:
        """All of them."""
        return [client.response() for client in self.clients]
