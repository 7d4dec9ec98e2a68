"""``flyproxyctl completion``: the script that teaches a shell our words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from flyproxy.ctl.cli import Command

SHELLS = ("bash", "zsh", "fish")
HOW = {
    "bash": 'eval "$(flyproxyctl completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(flyproxyctl completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "flyproxyctl completion fish > ~/.config/fish/completions/flyproxyctl.fish",
}


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    made = get_completion_class(shell)
    assert made is not None
    click.echo(f"# {HOW[shell]}")
    click.echo(made(ctx.find_root().command, {}, "flyproxyctl", "_FLYPROXYCTL_COMPLETE").source())
