"""Writes the generated parts of the documentation, between their ``<!-- generated -->`` marks.

``python docs/generate.py`` writes them; ``--check`` only says which are old (exit 1). The sources are the code: the
command line (cli.md), the metrics' names (metrics.md) and the table of errors (operations.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)

# By code where one of a family is another matter, else by family.
WHO_ACTS = {
    "PH": ("the client", "The request was refused before it was routed. One client: tell them. Many at once: an attack "
           "or a broken release of a client; look at `flyproxyctl logs -f` for the common address."),
    "PE": ("the operator", "The request names something that is not configured: `flyproxyctl hostnames list`, "
           "`flyproxyctl apps show APP`."),
    "PL": ("the operator", "The proxy protects itself. `flyproxyctl top` shows which app it is; "
           "`flyproxy_limit_reached_total` shows which limit."),
    "PR": ("the app's owner", "No machine can take the request: `flyproxyctl machines list -a APP` shows health, "
           "cordons and load."),
    "PC": ("the app's owner", "The proxy cannot reach a machine: connect to its address and port by hand from this "
           "host, for example `curl -v http://ADDRESS:PORT/`."),
    "PU03": ("the operator", "The proxy cannot reach the other host: `flyproxyctl hosts list` says how each one is "
             "reached, [the mesh](#a-host-that-is-not-reached) what to look at."),
    "PR02": ("nobody, unless it stays", "The machine moved or stopped, and this host learned of it later than the "
             "other: `flyproxyctl machines show ID` says where it is now, `flyproxyctl hosts list` how that host is "
             "reached."),
    "PU": ("the app's owner", "A machine answered badly: ask it directly with `curl -v http://ADDRESS:PORT/` and read "
           "the app's own log."),
    "PP": ("us", "A fault of the proxy. Keep the log lines around the request id and report them."),
    "PD": ("nobody", "The client gave up or did not read. Only a sudden rise needs a look: at slow answers first, "
           "then at the network."),
}


def runbook() -> Iterator[str]:
    """One section an error code."""
    from flyproxy.errors import ERRORS
    for error in ERRORS:
        who, look = WHO_ACTS.get(error.code) or WHO_ACTS[error.code[:2]]
        seen = f"answered with status {error.status}" if error.status else "the connection is closed, nothing answered"
        retry = f", `Retry-After: {error.retry_after}`" if error.retry_after else ""
        yield f"### {error.code} {error.title}\n"
        yield f"- **Seen as**: {seen}{retry}; `flyproxy_errors_total{{code=\"{error.code}\"}}`."
        yield f"- **Means**: {error.detail}"
        yield f"- **Mend**: {error.fix}"
        yield f"- **Who acts**: {who}. {look}\n"


def command_line() -> Iterator[str]:
    """The help of every command."""
    from flyproxy.ctl.main import command
    yield from _help(command, "flyproxyctl", None)


def _help(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    # A fixed width, so that the page does not depend on the terminal it was made in.
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, terminal_width=100,
                            max_content_width=100, **command.context_settings)
    yield f"### {path}\n\n```text\n{_without_common(command.get_help(context))}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _help(found, f"{path} {name}", context)


def _without_common(text: str) -> str:
    """The options that every command has are described once, at the top of the page."""
    from flyproxy.ctl.cli import COMMON
    names = [max(option.opts, key=len) for option in COMMON]
    kept: list[str] = []
    skipping = False
    for line in text.splitlines():
        if re.match(r"\s{2}\S", line):
            skipping = any(re.search(rf"(^|\s){re.escape(name)}\b", line[:30]) for name in names)
        elif not line.startswith("   "):
            skipping = False
        if not skipping:
            kept.append(line.rstrip())
    return "\n".join(kept)


def metrics() -> Iterator[str]:
    """The table of metrics."""
    from flyproxy.control.telemetry.families import FAMILIES as families
    yield "| metric | type | labels | tells |\n|---|---|---|---|"
    for family in families:
        labels = ", ".join(family.labels) or "none"
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.help} |"


SOURCES: dict[str, Callable[[], Iterator[str]]] = {
    "runbook": runbook, "command_line": command_line, "metrics": metrics,
}


def generated(text: str) -> str:
    """A page with its generated parts made anew."""
    def replace(found: re.Match[str]) -> str:
        return found[1] + "\n" + "\n".join(SOURCES[found[2]]()).rstrip() + "\n\n" + found[3]
    return MARKED.sub(replace, text)


def old_pages() -> list[Path]:
    """The pages whose generated parts are not what the code says now."""
    return [path for path in sorted(DOCS.glob("*.md")) if generated(path.read_text()) != path.read_text()]


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    pages = old_pages()
    for path in pages:
        if "--check" in arguments:
            print(f"{path}: generated part is old; fix: python docs/generate.py", file=sys.stderr)
        else:
            path.write_text(generated(path.read_text()))
            print(f"wrote {path}")
    return 1 if pages and "--check" in arguments else 0


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    sys.exit(main(sys.argv[1:]))
