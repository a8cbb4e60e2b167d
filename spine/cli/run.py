"""``run``: agents at work, in this process or in several that are supervised."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.exits import FAILED
from spine.cli.options import AppDir, Format, Namespace, Output, Url
from spine.cli.output import chosen, fail, write_rows
from spine.cli.running import execute, log_to_stderr
from spine.cli.signals import before, ending
from spine.cli.supervised import supervise
from spine.cli.worker_options import Concurrency, Level, LogFormat, LogLevel, Start, WorkerOptions

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.operations.targets import Kind

logger = logging.getLogger("spine")


ShutdownTimeout = Annotated[
    float, typer.Option("--shutdown-timeout", min=0, metavar="SECONDS", help="What runs may take so long to finish.")
]


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
    options = WorkerOptions(targets, app_dir, concurrency, start, shutdown_timeout, log_level, log_format)
    if check:
        show_agents(options.load(), chosen(output))
    elif workers > 1:
        supervise(options, workers, parent=parent, url=url, namespace=namespace)
    else:
        from spine.client import Spine

        agents = options.load()
        log_to_stderr(log_level, worker_id or "", as_json=log_format is LogFormat.JSON)

        async def work() -> bool:
            from spine.server_url import redacted

            logger.info("connecting to %s", redacted(url) if url else "the embedded server")
            spine = Spine(url, namespace=namespace, name="worker")
            return await serve(spine, agents, concurrency, shutdown_timeout, worker_id, parent)

        if not execute(work(), fast=True):
            fail(f"not all of what ran was finished within {shutdown_timeout:g} s; it is handled again", FAILED)


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
