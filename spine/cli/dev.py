"""``dev``: server and agents in the foreground, with everything that happens on the screen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.options import AppDir, Format, Namespace, Output, Url
from spine.cli.output import Events, chosen, say
from spine.cli.reloading import Reloading
from spine.cli.running import execute, log_to_stderr
from spine.cli.signals import before, ending
from spine.cli.worker_options import Concurrency, Level, LogLevel, Start, WorkerOptions, environment_of

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.operations.targets import Kind

SHUTDOWN_TIMEOUT_S = 5.0


def dev(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[MODULE:AGENT]...", help="The agents.")] = None,
    concurrency: Concurrency = None,
    app_dir: AppDir = Path(),
    start: Start = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start the agents anew when a Python file below --app-dir changes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show events.")] = False,
    log_level: Level = LogLevel.INFO,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Run the embedded server and agents in the foreground and show events as they happen, until Ctrl-C.

    spine dev agents.scheduling:Scheduling agents.inquiry:Inquiry
    """
    from spine.client import Spine

    options = WorkerOptions(targets or [], app_dir, concurrency, start, SHUTDOWN_TIMEOUT_S, log_level)
    if reload:
        _check_targets(targets)
        environment = environment_of(url, namespace)
        # What Python compiles is told apart by whole seconds: two quick changes could look like one.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command = options.command("--parent", str(os.getpid()))
        checked = subprocess.run([*command, "--check"], env=environment, stdout=subprocess.DEVNULL, check=False)
        if checked.returncode:
            raise typer.Exit(checked.returncode)
        agents = []
        reloading = Reloading(command, app_dir, environment)
    else:
        agents = options.load()
        reloading = None
    log_to_stderr(log_level, "dev")

    async def work() -> None:
        spine = Spine(url, namespace=namespace, name="dev")
        await _develop(spine, agents, concurrency, quiet, chosen(output), reloading)

    execute(work(), fast=True)


def _check_targets(targets: list[str] | None) -> None:
    if not targets:
        raise typer.BadParameter("--reload needs agents to start")


async def _develop(
    spine: Spine,
    agents: list[Kind],
    concurrency: int | None,
    quiet: bool,
    output: Format,
    reloading: Reloading | None,
) -> None:
    from spine.server_url import redacted
    from spine.worker import Worker

    stop = asyncio.Event()
    with ending(stop.set):
        async with contextlib.AsyncExitStack() as stack:
            if not await before(stop, stack.enter_async_context(spine)):
                return
            say(f"server     {redacted(spine.server.url)}")
            say(f"namespace  {spine.namespace}")
            if not quiet:
                shown = asyncio.create_task(_show(spine, output, stop), name="spine-dev-tail")
                stack.push_async_callback(_cancelled, shown)
            if agents:
                worker = Worker(spine, *agents, concurrency=concurrency, shutdown_timeout_s=SHUTDOWN_TIMEOUT_S)
                await stack.enter_async_context(worker)
                say(f"agents     {', '.join(agent.name for agent in agents)}")
            if reloading is not None:
                running = asyncio.create_task(reloading.run(), name="spine-dev-reload")
                stack.push_async_callback(_cancelled, running)
            say("Ctrl-C ends it")
            await stop.wait()


async def _show(spine: Spine, output: Format, stop: asyncio.Event) -> None:
    try:
        with Events(output, live=True) as events:
            async for event in spine.tail():
                events.write(event)
    except BrokenPipeError:
        stop.set()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
