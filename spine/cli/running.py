"""Running a command's coroutine: errors become messages and exit codes, Ctrl-C ends it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from spine.cli.exits import DONE, INTERRUPTED, exit_code
from spine.cli.output import fail, say
from spine.cli.signals import handled
from spine.errors import SpineError

if TYPE_CHECKING:
    from spine.client import Spine

T = TypeVar("T")
PATIENCE_S = 2.0
# What follows the log for hours outlasts a restart or a failover of the server.
FOLLOWING_PATIENCE_S = 60.0


def execute(command: Coroutine[Any, Any, T], *, interrupted: int = INTERRUPTED, fast: bool = False) -> T:
    """Run `command` to its end and return its result.

    An error of spine ends the program with its message on stderr and its exit code, Ctrl-C with `interrupted`, and a
    reader of our stdout that has gone away with 0. SIGTERM and SIGHUP let it clean up, and then end it as ever. `fast`
    is for workers: uvloop where that is installed, and garbage looked for less often.
    """
    if fast:
        from spine.worker.collector import collect_seldom

        collect_seldom()
    try:
        with asyncio.Runner(loop_factory=_uvloop() if fast else None) as runner:
            return runner.run(_in_order(command))
    except _Ended as end:
        signal.signal(end.number, signal.SIG_DFL)
        os.kill(os.getpid(), end.number)
        raise
    except SpineError as error:
        fail(_explained(error), exit_code(error))
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None
    except BrokenPipeError:
        # Whatever is still buffered would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(DONE) from None


class _Ended(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        self.number = number


async def _in_order(command: Coroutine[Any, Any, T]) -> T:
    """Return what `command` returns; where a signal to end comes first, it is cancelled, and `_Ended` raised."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    seen: list[int] = []

    def caught(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        loop.call_soon_threadsafe(task.cancel)

    with handled(caught, (signal.SIGTERM, signal.SIGHUP)):
        try:
            return await command
        except asyncio.CancelledError:
            if seen:
                raise _Ended(seen[0]) from None
            raise


def opened(url: str | None, namespace: str | None) -> Spine:
    """Return the client of a command, to be entered: it gives up on a server that is away sooner than a service."""
    from spine.client import Spine

    return Spine(url, namespace=namespace, name="cli", patience_s=PATIENCE_S)


@asynccontextmanager
async def following(url: str | None, namespace: str | None) -> AsyncGenerator[Spine, None]:
    """Yield the open client of a command that goes on until it is ended: once connected it is patient."""
    async with opened(url, namespace) as spine:
        spine.server.patience_s = FOLLOWING_PATIENCE_S
        yield spine


def log_to_stderr(level: str, name: str = "", *, as_json: bool = False) -> None:
    """Show what the library reports, with times; under `name` where several processes share a terminal."""
    tag = f"[{name}] " if name else ""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonLines(name) if as_json else logging.Formatter(f"%(asctime)s %(levelname)s {tag}%(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _JsonLines(logging.Formatter):
    """One JSON object a line, for what collects logs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        from spine.cli.output import to_json

        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._name or str(record.process),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return to_json(line).decode()


def _explained(error: SpineError) -> str:
    message = str(error)
    if error.stored is None:
        message += " Whether it was stored is not known."
    return message


def _uvloop() -> Any:
    try:
        import uvloop
    except ImportError:
        say("uvloop is not installed: running on the slower event loop")
        return None
    return uvloop.new_event_loop
