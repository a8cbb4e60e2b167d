"""The reference team at work: `python -m agents.team`, which is what `make run` calls.

Starts the agents as worker processes, feeds them conversations, and compares what they booked with the data.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from agents.dialogue import Dialogue, Service
from agents.display import say, show_result, shown
from agents.feeder import every, feed, start_run
from agents.progress import Progress
from agents.reading import check_services, load_dialogues, load_schema
from agents.verification import Verdict, expectations, judge, read_record
from agents.workers import PROCESSES, TEAM, WorkerFailed, Workers
from spine import Misconfigured, Spine, SpineError, Unavailable

SHIPPED = Path(__file__).parent / "conversations"
STALL_SECONDS = 30.0  # a run in which nothing happens for so long is not waited for


class CannotForget(Exception):
    """The namespace is still there."""


TOLD = (OSError, ValueError, CannotForget, WorkerFailed, SpineError)  # what may be in the way of a run


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run may be told; see `main` for the meaning of each."""

    url: str | None
    namespace: str
    conversations: Path
    fresh: bool
    workers: int
    rate: float | None
    cancel: int | None

    @property
    def environment(self) -> dict[str, str]:
        """What tells other processes where the team works; by the environment, because a URL may hold a password."""
        return {"SPINE_NAMESPACE": self.namespace, **({"SPINE_URL": self.url} if self.url else {})}


@dataclass(frozen=True, kw_only=True)
class Material:
    """The conversations of a run."""

    directory: Path
    dialogues: list[Dialogue]
    schema: dict[str, Service]

    @classmethod
    def load(cls, directory: Path) -> "Material":
        """Read a directory of conversations. Raises OSError or ValueError where they cannot be played."""
        dialogues, schema = load_dialogues(directory), load_schema(directory)
        check_services(dialogues, schema)
        return cls(directory=directory, dialogues=dialogues, schema=schema)


async def run_team(options: Options) -> int:
    """Do one run, show it, and return the exit code."""
    material = Material.load(options.conversations)
    if options.fresh:
        await forget(options)
    async with Spine(options.url, namespace=options.namespace, name="feeder") as spine:
        environment = {**options.environment, "CONVERSATIONS": str(options.conversations.resolve())}
        await say_who_else_works(spine)
        say(f"starting {len(TEAM)} agents in {len(PROCESSES) * options.workers} worker processes")
        async with Workers(options.workers, environment, say) as workers:
            await workers.ready(spine)
            progress = await play(spine, material, options.rate, options.cancel)
            verdict = await verdict_on(spine, progress.run, material)
            show_result(progress, verdict)
    return 0 if progress.done and not verdict.faults else 1


async def say_who_else_works(spine: Spine) -> None:
    """Workers of another run that goes on, or was killed, take part in this one, with conversations of their own."""
    pids = sorted({worker.pid for agent in TEAM for worker in await spine.workers(agent)})
    if pids:
        say(f"other workers are there already and take part: process {', '.join(map(str, pids))}")


async def forget(options: Options) -> None:
    """Delete the namespace, as `spine namespace delete` does it."""
    async with Spine(options.url, namespace=options.namespace):  # what is to be deleted must exist
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spine", "namespace", "delete", options.namespace, "--yes"),
            env={**os.environ, **options.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await process.wait():
            raise CannotForget(f"namespace {options.namespace} could not be deleted")


async def play(spine: Spine, material: Material, rate: float | None, cancel: int | None = None) -> Progress:
    """Feed the conversations and wait until all that follows from them is done, or nothing happens any more.

    Every `cancel`-th booking is taken back as soon as it is agreed.
    """
    taken_back = every(cancel, material.dialogues, material.schema)
    run = await start_run(spine, len(material.dialogues))
    progress = Progress(run=run, conversations=len(material.dialogues))
    async with shown(progress), asyncio.TaskGroup() as group:
        fed = feed(spine, run, material.dialogues, material.schema, rate=rate, taken_back=taken_back)
        group.create_task(fed, name="feed")
        group.create_task(follow(spine, progress, STALL_SECONDS + (1 / rate if rate else 0)), name="follow")
    return progress


async def follow(spine: Spine, progress: Progress, patience_s: float) -> None:
    """Read the run's events as they come, until it is done, or nothing has come for `patience_s`."""
    async with aclosing(spine.tail(after=progress.run)) as events:
        while not progress.done:
            try:
                async with asyncio.timeout(patience_s):
                    progress.see(await anext(events))
            except TimeoutError:
                say(f"nothing has happened for {patience_s:.0f} s: this run is given up")
                return


async def verdict_on(spine: Spine, run: int, material: Material) -> Verdict:
    """Compare a finished run with what the data says."""
    expected = expectations(material.directory, material.dialogues, material.schema)
    return judge(await read_record(spine, run), expected, material.schema)


def conclude(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Do `work` and exit with the code that it returns; what is in its way is said in a line, and ends with 1 or 4."""
    try:
        code = asyncio.run(_until_signalled(work))
    except (*TOLD, ExceptionGroup) as error:
        cause = _first_cause(error)
        if not isinstance(cause, TOLD):
            raise
        say(str(cause))
        code = 4 if isinstance(cause, Misconfigured | Unavailable) else 1
    sys.exit(code)


async def _until_signalled(work: Coroutine[Any, Any, int]) -> int:
    """Ctrl-C and the like end the work in order, its worker processes first. A second one is in more of a hurry."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work, name="work")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        say("stopped")
        return 130


def _first_cause(error: BaseException) -> BaseException:
    """The first of what several tasks failed with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main(
    conversations: Annotated[
        Path, typer.Option(envvar="CONVERSATIONS", help="Directory with schema.json and dialogues_*.json.")
    ] = SHIPPED,
    url: Annotated[
        str | None, typer.Option(envvar="SPINE_URL", help="The server; the embedded one where left out.")
    ] = None,
    namespace: Annotated[str, typer.Option(envvar="SPINE_NAMESPACE", help="Where in the server.")] = "default",
    fresh: Annotated[bool, typer.Option(envvar="FRESH", help="Forget all earlier runs first.")] = False,
    workers: Annotated[int, typer.Option(envvar="WORKERS", min=1, help="Worker processes of each agent.")] = 1,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Turns per second; as fast as the spine takes them if left out.")
    ] = None,
    cancel: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Let customers take every N-th booking back.")
    ] = None,
) -> None:
    """Let the reference team work through conversations, and compare what it booked with the data."""
    options = Options(
        url=url,
        namespace=namespace,
        conversations=conversations,
        fresh=fresh,
        workers=workers,
        rate=rate,
        cancel=cancel,
    )
    conclude(run_team(options))


if __name__ == "__main__":
    typer.run(main)
