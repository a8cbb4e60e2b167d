"""The options of commands that run agents, and the command line of a worker process of its own."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from spine.cli.options import MOMENT, moment
from spine.cli.targets import loaded

if TYPE_CHECKING:
    from spine.operations.targets import Kind

STARTS = ("present", "beginning")


class LogLevel(StrEnum):
    """How much is told on stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How it is told."""

    TEXT = "text"
    JSON = "json"


Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", min=1, help="Handlers of one agent at once in one process.")
]
Start = Annotated[
    str | None,
    typer.Option("--start", help=f"Where an agent that never ran begins: present, beginning, {MOMENT}."),
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="What is told on stderr.")]


class WorkerOptions(NamedTuple):
    """How agents are to run, as it was typed."""

    targets: list[str]
    app_dir: Path
    concurrency: int | None
    start: str | None
    shutdown_timeout_s: float
    log_level: LogLevel
    log_format: LogFormat = LogFormat.TEXT

    def command(self, *more: str) -> list[str]:
        """Return the command that runs the agents so, in a process of their own, with `more` arguments."""
        arguments = [*self.targets, "--app-dir", str(self.app_dir), "--shutdown-timeout", str(self.shutdown_timeout_s)]
        arguments += ["--log-level", self.log_level, "--log-format", self.log_format]
        arguments += ["--concurrency", str(self.concurrency)] if self.concurrency else []
        arguments += ["--start", self.start] if self.start else []
        return [sys.executable, "-m", "spine", "run", *arguments, *more]

    def load(self) -> list[Kind]:
        """Return the agents and projections; where one cannot be imported the command ends with 3."""
        from spine.agent import Agent

        begin: Any = self.start if self.start in (None, *STARTS) else moment(self.start or "")
        kinds = loaded(self.targets, self.app_dir)
        for kind in kinds:
            if begin is not None and issubclass(kind, Agent):
                kind.start = begin
        return kinds


def environment_of(url: str | None, namespace: str | None) -> dict[str, str]:
    """Return the environment of a worker process: a URL may hold a password, and only this user can read it there."""
    given = {"SPINE_URL": url, "SPINE_NAMESPACE": namespace}
    return {**os.environ, **{name: value for name, value in given.items() if value}}
