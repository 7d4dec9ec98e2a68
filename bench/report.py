"""Results to docs/benchmarks.md and docs/benchmarks.svg."""

from __future__ import annotations

import html
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
TITLES = {
    "small-64": ("HTTP/1.1 small GET, keep-alive, 64 connections", "CPU µs per request"),
    "small-256": ("HTTP/1.1 small GET, keep-alive, 256 connections", "CPU µs per request"),
    "16k": ("16 KB answer, 64 connections", "CPU µs per request"),
    "1m": ("1 MB answer, 16 connections", "CPU s per GB"),
    "tcp": ("raw TCP, one bulk stream", "CPU s per GB"),
    "idle": ("idle keep-alive connection, one request done", "resident bytes"),
    "2-small-64": ("two hops: small GET, 64 connections", "CPU µs per request"),
    "2-small-8": ("two hops: small GET, 8 connections", "CPU µs per request"),
    "2-small-1": ("two hops: small GET, 1 connection", "CPU µs per request"),
    "2-16k": ("two hops: 16 KB answer, 64 connections", "CPU µs per request"),
    "2-1m": ("two hops: 1 MB answer, 16 connections", "CPU s per GB"),
    "2-tcp": ("two hops: raw TCP, one bulk stream", "CPU s per GB"),
    "2-stream": ("two hops: a request whose answer's body does not come", "resident bytes"),
    "2-websocket": ("two hops: idle WebSocket", "resident bytes"),
}
IDLE = {"idle", "2-stream", "2-websocket"}
BULK = {"tcp", "2-tcp"}
# Highest ratio to the named contender that we allow ourselves; for "idle" the highest number of bytes.
GOALS: dict[str, dict[str, float]] = {
    "small-64": {"relay": 1.15, "haproxy": 0.80, "nginx": 0.70},
    "small-256": {"relay": 1.15, "haproxy": 0.80, "nginx": 0.70},
    "16k": {"haproxy": 0.70, "nginx": 0.70},
    "1m": {"relay-splice": 1.3, "nginx": 0.5},
    "tcp": {"relay-splice": 1.3, "nginx": 0.5},
    "idle": {"bytes": 500},
    "2-small-64": {"haproxy-h1": 0.50},
    "2-small-8": {"haproxy-h1": 0.65},
    "2-small-1": {"haproxy-h1": 0.75},
}
Samples = dict[str, list[dict[str, float]]]


def spread(values: list[float]) -> str:
    digits = 0 if max(values) >= 100 else 2 if max(values) >= 1 else 3
    text = f"{median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratio(samples: Samples, name: str) -> float | None:
    """Median over the rounds of ours / theirs, each taken within its own round."""
    pairs = list(zip(samples.get("flyproxy", []), samples.get(name, []), strict=False))
    return median(ours["cost"] / theirs["cost"] for ours, theirs in pairs) if pairs and name != "flyproxy" else None


def table(row: str, samples: Samples) -> str:
    title, unit = TITLES[row]
    lines = [
        f"### {title}",
        "",
        f"| | {unit}: median (min-max) | workers alone | user part | per second | p50 / p99 ms | ours / this |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in samples.items():
        mid = {key: median(run[key] for run in runs) for key in runs[0]}
        share = ratio(samples, name)
        rate = "" if row in IDLE else f"{mid['per_second']:.2f} GB" if row in BULK else f"{mid['per_second']:,.0f}"
        waits = f"{mid['p50_ms']:.2f} / {mid['p99_ms']:.2f}" if mid["p50_ms"] else ""
        lines.append(
            " | ".join(
                [
                    f"| {'**flyproxy**' if name == 'flyproxy' else name}",
                    spread([run["cost"] for run in runs]),
                    f"{mid['own']:.3g}" if name == "flyproxy" else "",
                    "" if row in IDLE else f"{mid['user_share']:.0%}",
                    rate,
                    waits,
                    (f"{share:.2f}" if share else "") + " |",
                ]
            )
        )
    return "\n".join([*lines, "", *goals(row, samples)])


def goals(row: str, samples: Samples) -> list[str]:
    verdicts = []
    for name, most in GOALS.get(row, {}).items():
        if name == "bytes" and "flyproxy" in samples:
            value: float | None = median(run["cost"] for run in samples["flyproxy"])
            text = f"at most {most:.0f} bytes"
        else:
            value, text = ratio(samples, name), f"at most {most:.2f} × {name}"
        if value is not None:
            verdicts.append(
                f"{text}: {'met' if value <= most else '**missed**'} ({value:.{0 if name == 'bytes' else 2}f})"
            )
    return ["Goals: " + " · ".join(verdicts), ""] if verdicts else []


def tables(result: dict[str, Any]) -> str:
    return "\n".join(table(row, result["samples"][row]) for row in TITLES if result["samples"].get(row))


def chart(result: dict[str, Any]) -> str:
    """Bars of the median cost, one group a row, each group scaled to its own longest bar."""
    parts, y = [], 10
    for row, (title, unit) in TITLES.items():
        if not (samples := result["samples"].get(row)):
            continue
        parts.append(f'<text x="10" y="{y + 14}" font-weight="bold">{html.escape(title)} ({unit})</text>')
        y += 22
        costs = {name: median(run["cost"] for run in runs) for name, runs in samples.items()}
        for name, cost in costs.items():
            width = 420 * max(cost, 0) / max(costs.values())
            colour = "#3b6fd4" if name == "flyproxy" else "#b8bcc4"
            parts.append(
                f'<text x="10" y="{y + 12}">{name}</text>'
                f'<rect x="110" y="{y}" width="{width:.1f}" height="15" fill="{colour}"/>'
                f'<text x="{115 + width:.1f}" y="{y + 12}">{cost:.3g}</text>'
            )
            y += 19
        y += 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="620" height="{y}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def write(result: dict[str, Any], source: Path) -> None:
    facts = "\n".join(f"| {key} | {value} |" for key, value in result["machine"].items())
    text = f"""# What a proxied request costs

Written by `make bench` from `bench/results/{source.name}`; do not edit by hand. How it is measured: `bench/README.md`.

{result["when"]}, {result["rounds"]} interleaved rounds of {result["seconds"]:g} s each: `{result["command"]}`

CPU is user and system time of all processes of a proxy ("workers alone": without master, state and control). Every
proxy has one worker on one core; client and backend share the other. A ratio is the median over the rounds of ours
divided by theirs in the same round: ratios hold on another day, absolute numbers do not. `relay` parses nothing and
copies, `relay-splice` splices. In two hops a contender is there twice, the second before the backend, with HTTP/1.1
keep-alive (`h1`) or HTTP/2 without TLS (`h2c`) between; the CPU of both is summed. flyproxy is an edge and a worker
host there.

![bars](benchmarks.svg)

{tables(result)}
## Machine

| | |
|---|---|
{facts}
"""
    (DOCS / "benchmarks.md").write_text(text)
    (DOCS / "benchmarks.svg").write_text(chart(result))
