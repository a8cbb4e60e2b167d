"""``dev``: server and agents in the foreground, with everything that happens on the screen."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.options import AppDir, Format, Namespace, Output, Url
from spine.cli.output import Events, chosen, say
from spine.cli.run import Concurrency, Level, LogLevel, Start, load_agents
from spine.cli.running import execute, log_to_stderr
from spine.cli.signals import before, ending

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.operations.targets import Kind

SHUTDOWN_TIMEOUT_S = 5.0


def dev(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[MODULE:AGENT]...", help="The agents.")] = None,
    concurrency: Concurrency = None,
    app_dir: AppDir = Path(),
    start: Start = None,
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

    agents = load_agents(targets or [], app_dir, start)
    log_to_stderr(log_level, "dev")

    async def work() -> None:
        await _develop(Spine(url, namespace=namespace, name="dev"), agents, concurrency, quiet, chosen(output))

    execute(work(), fast=True)


async def _develop(spine: Spine, agents: list[Kind], concurrency: int | None, quiet: bool, output: Format) -> None:
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
