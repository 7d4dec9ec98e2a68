"""The common options of every command and the run they make: which daemon, how to print, online or not.

The options stand anywhere on the command line (``flyproxyctl --json status`` and ``flyproxyctl status --json``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import click

from flyproxy.ctl.client import Api
from flyproxy.ctl.failure import Usage
from flyproxy.ctl.output import Output

if TYPE_CHECKING:
    from flyproxy.settings import Loaded, Settings


class Nouns(Protocol):
    """Where apps, machines, hostnames, ips and hosts are read and changed: the control process, or the store itself."""

    def list(self, noun: str, app: str | None = None) -> Any: ...
    def show(self, noun: str, name: str) -> Any: ...
    def put(self, noun: str, name: str, body: dict[str, Any]) -> Any: ...
    def delete(self, noun: str, name: str) -> Any: ...


@dataclass
class Run:
    """One invocation. Settings are loaded only when something needs them."""

    config: str | None = None
    socket: str | None = None
    offline: bool = False
    output: Output = field(default_factory=Output)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the host as file and environment give them."""
        return self.loaded.settings

    @cached_property
    def loaded(self) -> Loaded:
        """The same, with the origin of every value."""
        from flyproxy.ctl.local import load
        return load(self.config)

    @cached_property
    def runtime(self) -> str:
        """The directory of ctl.sock and api.sock."""
        if self.socket:
            if self.config:
                raise Usage("usage", "--socket and -c name the daemon twice", "the command line", "give one of the two")
            return self.socket
        from flyproxy.ctl.local import runtime_directory
        return runtime_directory(lambda: self.settings, self.config)

    @cached_property
    def nouns(self) -> Nouns:
        if not self.offline:
            return Api(self.runtime)
        from flyproxy.ctl.offline import Offline
        return Offline(lambda: self.settings, self.runtime)


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        run = ctx.find_object(Run)
        if run is not None and value:
            setattr(run.output if name == "as_json" else run, name, value)
        return value
    return callback


COMMON: list[click.Parameter] = [
    click.Option(["-c", "--config"], metavar="FILE", expose_value=False, callback=_store("config"),
                 help="The daemon's flyproxy.toml. [default: $FLYPROXY_CONFIG or /etc/flyproxy/flyproxy.toml]"),
    click.Option(["--socket"], metavar="DIR", expose_value=False, callback=_store("socket"),
                 help="The daemon's runtime directory, instead of -c."),
    click.Option(["--json"], is_flag=True, expose_value=False, callback=_store("as_json"),
                 help="Print JSON: data on stdout, errors on stderr."),
    click.Option(["--offline"], is_flag=True, expose_value=False, callback=_store("offline"),
                 help="Work on the SQLite store itself; only while nothing runs."),
]


class Command(click.Command):
    """A verb; takes the common options too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *COMMON]


class Group(click.Group):
    """A noun; its verbs are ``Command``s."""

    command_class = Command

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *COMMON]


class LazyGroup(Group):
    """The top: each noun's module is imported when it is named, so that ``status`` does not pay for ``apps``."""

    def __init__(self, *args: Any, nouns: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.nouns = nouns

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.nouns)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self.nouns.get(cmd_name)
        if module is None:
            return None
        command: click.Command = import_module(module).command
        return command


pass_run = click.make_pass_decorator(Run)


def complete_app(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """App names for the shell; silence when the daemon cannot be asked."""
    try:
        names = [app["name"] for app in Run().nouns.list("apps")]
    except Exception:  # noqa: BLE001  a completion that fails must print nothing into the user's prompt
        return []
    return [name for name in names if name.startswith(incomplete)]


def app_option(required: bool = False, text: str = "The app.") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("-a", "--app", metavar="APP", required=required, shell_complete=complete_app, help=text)
