"""Agents in several worker processes, which are supervised from here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import typer

from spine.cli.exits import FAILED, NO_REDIS, NO_TARGET, USAGE
from spine.cli.output import fail
from spine.cli.running import execute, log_to_stderr
from spine.cli.signals import before, ending
from spine.cli.worker_options import LogFormat, WorkerOptions, environment_of

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.operations.supervisor import Ended


def supervise(
    options: WorkerOptions, workers: int, *, parent: int | None, url: str | None, namespace: str | None
) -> None:
    """Run `workers` processes until a signal comes, or `parent` is gone; end with 1 where not all of them drained."""
    from spine.client import Spine

    environment = environment_of(url, namespace)
    # Once, and not here: what agents import stays out of the supervisor.
    check = options.command("--check")
    checked = subprocess.run(check, env=environment, stdout=subprocess.DEVNULL, check=False)
    if checked.returncode:
        raise typer.Exit(checked.returncode)
    log_to_stderr(options.log_level, "supervisor", as_json=options.log_format is LogFormat.JSON)

    async def keep_running() -> Ended:
        spine = Spine(url, namespace=namespace, name="supervisor")
        return await _keep_running(spine, options, workers, environment, parent)

    ended = execute(keep_running())
    if ended.fatal is not None:
        raise typer.Exit(ended.fatal)
    if not ended.drained:
        fail("not all workers ended in order; what they had in hand is handled again", FAILED)


async def _keep_running(
    spine: Spine, options: WorkerOptions, workers: int, environment: dict[str, str], parent: int | None
) -> Ended:
    from spine.delivery.leases import expire_worker
    from spine.operations.supervisor import Ended, Supervisor

    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        with ending(stop.set, parent=parent):
            if not await before(stop, stack.enter_async_context(spine)):
                return Ended(drained=True)

        async def expire(worker: str) -> None:
            await expire_worker(spine.server, worker)

        supervisor = Supervisor(
            lambda worker: options.command("--worker-id", worker),
            workers,
            name=f"{re.sub(r'[^a-z0-9-]', '-', socket.gethostname().lower())[:40]}.{os.getpid()}",
            environment=environment,
            shutdown_timeout_s=options.shutdown_timeout_s,
            on_death=expire,
            fatal=frozenset({USAGE, NO_TARGET, NO_REDIS}),
        )
        with ending(supervisor.stop, supervisor.kill, parent=parent):
            return await supervisor.run()
