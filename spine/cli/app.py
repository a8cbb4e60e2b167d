"""The commands, put together."""

from __future__ import annotations

import logging
from collections.abc import Callable

import typer

from spine.cli import agents, dlq, namespace, snapshots
from spine.cli.agents import cancel, lag
from spine.cli.bench import bench
from spine.cli.catalog import catalog
from spine.cli.copies import export, fork, import_
from spine.cli.dev import dev
from spine.cli.doctor import doctor
from spine.cli.metrics import metrics
from spine.cli.publish import publish
from spine.cli.read import history, tail
from spine.cli.replay import replay
from spine.cli.request import request
from spine.cli.run import run
from spine.cli.trace import trace
from spine.cli.trim import trim

AGENTS = "Agents"
LOG = "The log"
SERVER = "The server"

app = typer.Typer(
    name="spine",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"spine {version('event-spine')}")
        raise typer.Exit


@app.callback()
def spine(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Many agents, one system: the event backbone on Redis Streams."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    (AGENTS, run),
    (AGENTS, dev),
    (AGENTS, lag),
    (AGENTS, cancel),
    (LOG, publish),
    (LOG, request),
    (LOG, tail),
    (LOG, history),
    (LOG, replay),
    (LOG, trace),
    (LOG, catalog),
    (LOG, fork),
    (LOG, export),
    (LOG, import_),
    (LOG, trim),
    (SERVER, doctor),
    (SERVER, metrics),
    (SERVER, bench),
)
for panel, command in COMMANDS:
    app.command(command.__name__.rstrip("_"), rich_help_panel=panel)(command)
app.add_typer(agents.app, name="agents", rich_help_panel=AGENTS)
app.add_typer(dlq.app, name="dlq", rich_help_panel=AGENTS)
app.add_typer(snapshots.app, name="snapshots", rich_help_panel=LOG)
app.add_typer(namespace.app, name="namespace", rich_help_panel=SERVER)
