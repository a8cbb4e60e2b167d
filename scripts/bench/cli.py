"""The command: options in, rounds run, table, JSON and plot out."""

from __future__ import annotations

import functools
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from scripts.bench.arm import load_arms
from scripts.bench.figures import arms_of, chosen
from scripts.bench.measure import Outcome, measure
from scripts.bench.plot import plot
from scripts.bench.report import as_json, show, write_json
from scripts.bench.rounds import Outcomes, run_rounds
from scripts.bench.servers import Storage
from scripts.bench.verdict import judge

RESULTS = Path("bench-results")
ROUNDS, QUICK_ROUNDS = 5, 1
FAILED, USAGE = 1, 2
PIPED_WIDTH = 130

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small counts, one round: about a minute in all.")] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="FIGURE", help="Only this figure; repeatable.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=50, help="Interleaved rounds.")] = None,
    storage: Annotated[
        Storage, typer.Option(help="file: AOF everysec and JetStream in files; memory: no AOF.")
    ] = Storage.FILE,
    json: Annotated[Path, typer.Option(help="Where everything measured is written.")] = RESULTS / "bench.json",
    plot_to: Annotated[Path, typer.Option("--plot", help="Where the picture is written.")] = RESULTS / "bench.png",
) -> None:
    """Measure the spine and its peers in one run and print one table with ratios.

    Exits with 1 when an arm of the spine failed; a target that is not reached is shown, not an error.
    """
    out, err = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH), Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are stopped
    try:
        figures = chosen(_split(only or []))
    except KeyError as error:
        err.print(escape(str(error.args[0])))
        raise typer.Exit(USAGE) from None
    arms = load_arms()
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    outcomes = run_rounds(
        arms_of(figures),
        rounds,
        lambda name: measure(arms[name], quick, storage),
        functools.partial(_progress, err, rounds),
    )
    rows = judge(figures, outcomes)
    show(rows, outcomes, out)
    write_json(json, as_json(rows, outcomes, {"quick": quick, "rounds": rounds, "storage": str(storage)}))
    drawn = plot(rows, plot_to)
    err.print(f"{json}{f', {plot_to}' if drawn else '; no plot: matplotlib is not installed'}")
    if failed := _failed(outcomes):
        err.print(f"failed: {', '.join(failed)} (tracebacks in {json})")
        raise typer.Exit(FAILED)


def _split(only: list[str]) -> list[str]:
    """`--only a --only b,c` names three."""
    return [name for names in only for name in names.replace(",", " ").split()]


def _progress(console: Console, rounds: int, number: int, name: str, outcome: Outcome) -> None:
    values = " ".join(f"{metric}={value:,.1f}" for metric, value in (outcome.sample or {}).items())
    console.print(
        f"{number + 1}/{rounds} {name:<20} {escape(values or outcome.reason)} ({outcome.seconds:.1f} s)",
        highlight=False,
        soft_wrap=True,
    )


def _failed(outcomes: Outcomes) -> list[str]:
    """The spine's own arms that gave no sample although all they need is here."""
    return [
        name
        for name, found in outcomes.items()
        if name.startswith("spine.") and any(one.sample is None and not one.absent for one in found)
    ]
