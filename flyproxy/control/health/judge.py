"""From the results of probes to the health of a machine: pure.

A check of a machine whose health is unknown is settled by its first result, so that a machine is not held back for two
intervals after it was added. After that two results in a row are needed to change a verdict: one lost packet takes no
machine out, and a machine that answers every second probe does not come and go. A machine is critical while any of its
checks is, passing when all are, and unknown (which is routable) until every check has reported. The recorded health is
where a new check begins, so that a restart of this process forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Health = Literal["passing", "critical", "unknown"]

RISE = 2
FALL = 2


@dataclass(slots=True)
class Verdict:
    """One check: what it is held to be, and how many results in a row said the opposite."""

    passing: bool
    against: int = 0
    why: str = ""


@dataclass(slots=True)
class Judge:
    """The verdicts of all checks, by machine and check name."""

    machines: dict[str, dict[str, Verdict | None]] = field(default_factory=dict)

    def replace(self, checks: Iterable[tuple[str, str, Health]]) -> None:
        """Keep exactly these (machine, check name, recorded health of the machine); the health seeds new checks."""
        wanted: dict[str, dict[str, Verdict | None]] = {}
        for machine, name, recorded in checks:
            known = self.machines.get(machine, {})
            wanted.setdefault(machine, {})[name] = known[name] if name in known else _seed(recorded)
        self.machines = wanted

    def result(self, machine: str, name: str, problem: str | None) -> Health:
        """One probe's result (``problem`` None: it passed); returns the machine's health after it."""
        verdicts = self.machines.get(machine, {})
        if name not in verdicts:
            return "unknown"
        passed, verdict = problem is None, verdicts[name]
        if verdict is None:
            verdicts[name] = Verdict(passed, why=problem or "")
        elif verdict.passing == passed:
            verdict.against, verdict.why = 0, problem or ""
        else:
            verdict.against += 1
            if verdict.against >= (RISE if passed else FALL):
                verdicts[name] = Verdict(passed, why=problem or "")
        return self.health(machine)

    def health(self, machine: str) -> Health:
        verdicts = self.machines.get(machine, {}).values()
        if any(verdict is not None and not verdict.passing for verdict in verdicts):
            return "critical"
        if verdicts and all(verdict is not None for verdict in verdicts):
            return "passing"
        return "unknown"

    def why(self, machine: str) -> str:
        """The problems that make a machine critical, in one line; empty when none does."""
        verdicts = self.machines.get(machine, {}).items()
        return "; ".join(f"{name}: {v.why}" for name, v in verdicts if v is not None and not v.passing)


def _seed(recorded: Health) -> Verdict | None:
    return None if recorded == "unknown" else Verdict(recorded == "passing", why="as recorded before this start")
