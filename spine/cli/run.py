"""``run``: agents at work, in this process or in several that are supervised."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spine.cli.exits import FAILED, NO_REDIS, NO_TARGET, USAGE
from spine.cli.options import MOMENT, AppDir, Format, Namespace, Output, Url, moment
from spine.cli.output import chosen, fail, write_rows
from spine.cli.running import execute, log_to_stderr
from spine.cli.signals import before, ending
from spine.cli.targets import loaded

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.operations.supervisor import Ended
    from spine.operations.targets import Kind

logger = logging.getLogger("spine")
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
ShutdownTimeout = Annotated[
    float, typer.Option("--shutdown-timeout", min=0, metavar="SECONDS", help="What runs may take so long to finish.")
]
Start = Annotated[
    str | None,
    typer.Option("--start", help=f"Where an agent that never ran begins: present, beginning, {MOMENT}."),
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="What is told on stderr.")]


def run(
    targets: Annotated[list[str], typer.Argument(metavar="MODULE:AGENT...", help="The agents and projections.")],
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="How many processes.")] = 1,
    concurrency: Concurrency = None,
    app_dir: AppDir = Path(),
    shutdown_timeout: ShutdownTimeout = 30.0,
    start: Start = None,
    check: Annotated[bool, typer.Option("--check", help="Only import the agents and show them.")] = False,
    log_level: Level = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(help="How it is told: a line of text, or of JSON.")] = LogFormat.TEXT,
    parent: Annotated[
        int | None, typer.Option(metavar="PID", help="End in order when this process, which started us, is gone.")
    ] = None,
    worker_id: Annotated[str | None, typer.Option(hidden=True)] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Run agents until Ctrl-C; what is in hand is finished first, a second Ctrl-C ends at once.

    spine run agents.scheduling:Scheduling agents.inquiry:Inquiry -w 4
    """
    if check:
        show_agents(load_agents(targets, app_dir, start), chosen(output))
    elif workers > 1:
        options = {
            "--app-dir": app_dir,
            "--concurrency": concurrency,
            "--shutdown-timeout": shutdown_timeout,
            "--start": start,
            "--log-level": log_level,
            "--log-format": log_format,
        }
        given = [str(word) for option in options.items() if option[1] is not None for word in option]
        command = [sys.executable, "-m", "spine", "run", *targets, *given]
        log_to_stderr(log_level, "supervisor", as_json=log_format is LogFormat.JSON)
        _supervise(command, workers, shutdown_timeout, parent, url, namespace)
    else:
        from spine.client import Spine

        agents = load_agents(targets, app_dir, start)
        log_to_stderr(log_level, worker_id or "", as_json=log_format is LogFormat.JSON)

        async def work() -> bool:
            from spine.server_url import redacted

            logger.info("connecting to %s", redacted(url) if url else "the embedded server")
            spine = Spine(url, namespace=namespace, name="worker")
            return await serve(spine, agents, concurrency, shutdown_timeout, worker_id, parent)

        if not execute(work(), fast=True):
            fail(f"not all of what ran was finished within {shutdown_timeout:g} s; it is handled again", FAILED)


def load_agents(targets: list[str], app_dir: Path, start: str | None) -> list[Kind]:
    """Return the agents and projections of `targets`; where one cannot be imported the command ends with 3."""
    from spine.agent import Agent

    begin: Any = start if start in (None, *STARTS) else moment(start or "")
    kinds = loaded(targets, app_dir)
    for kind in kinds:
        if begin is not None and issubclass(kind, Agent):
            kind.start = begin
    return kinds


def show_agents(agents: list[Kind], output: Format) -> None:
    """Write what `agents` are."""
    rows = [
        {
            "agent": agent.name,
            "handles": [pattern for handler in getattr(agent, "handlers", ()) for pattern in handler.patterns],
            "reduces": [pattern for reducer in agent.reducers for pattern in reducer.patterns],
            "version": str(agent.version),
        }
        for agent in agents
    ]
    write_rows(rows, ("agent", "handles", "reduces", "version"), output)


async def serve(
    spine: Spine,
    agents: list[Kind],
    concurrency: int | None,
    shutdown_timeout_s: float,
    worker_id: str | None = None,
    parent: int | None = None,
) -> bool:
    """Run `agents` until a signal comes, or `parent` is gone; return whether all of what ran then was finished."""
    from spine.worker import Worker

    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(ending(stop.set, parent=parent))
        if not await before(stop, stack.enter_async_context(spine)):
            return True
        worker = Worker(
            spine, *agents, concurrency=concurrency, worker=worker_id, shutdown_timeout_s=shutdown_timeout_s
        )
        await worker.start()
        names = ", ".join(agent.name for agent in agents)
        logger.info("worker %s (pid %d) runs %s in namespace %s", worker.id, os.getpid(), names, spine.namespace)
        try:
            await stop.wait()
            logger.info("worker %s finishes what is in hand", worker.id)
        finally:
            finished = await worker.stop()
    return finished


def _supervise(
    command: list[str],
    workers: int,
    shutdown_timeout_s: float,
    parent: int | None,
    url: str | None,
    namespace: str | None,
) -> None:
    # A URL may hold a password: it goes by the environment, which only this user can read.
    given = {"SPINE_URL": url, "SPINE_NAMESPACE": namespace}
    environment = {**os.environ, **{name: value for name, value in given.items() if value}}
    # Once, and not here: what agents import stays out of the supervisor.
    checked = subprocess.run([*command, "--check"], env=environment, stdout=subprocess.DEVNULL, check=False)
    if checked.returncode:
        raise typer.Exit(checked.returncode)
    ended = execute(_keep_running(command, workers, environment, shutdown_timeout_s, parent, url, namespace))
    if ended.fatal is not None:
        raise typer.Exit(ended.fatal)
    if not ended.drained:
        fail("not all workers ended in order; what they had in hand is handled again", FAILED)


async def _keep_running(
    command: list[str],
    workers: int,
    environment: dict[str, str],
    shutdown_timeout_s: float,
    parent: int | None,
    url: str | None,
    namespace: str | None,
) -> Ended:
    from spine.client import Spine
    from spine.delivery.leases import expire_worker
    from spine.operations.supervisor import Ended, Supervisor

    stop = asyncio.Event()
    spine = Spine(url, namespace=namespace, name="supervisor")
    async with contextlib.AsyncExitStack() as stack:
        with ending(stop.set, parent=parent):
            if not await before(stop, stack.enter_async_context(spine)):
                return Ended(drained=True)

        async def expire(worker: str) -> None:
            await expire_worker(spine.server, worker)

        supervisor = Supervisor(
            lambda worker: [*command, "--worker-id", worker],
            workers,
            name=f"{re.sub(r'[^a-z0-9-]', '-', socket.gethostname().lower())[:40]}.{os.getpid()}",
            environment=environment,
            shutdown_timeout_s=shutdown_timeout_s,
            on_death=expire,
            fatal=frozenset({USAGE, NO_TARGET, NO_REDIS}),
        )
        with ending(supervisor.stop, supervisor.kill, parent=parent):
            return await supervisor.run()
