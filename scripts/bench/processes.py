"""The processes of an arm: the arm itself and the consumers beside it, each bounded in time."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

PR_SET_PDEATHSIG = 1
SPAWN = multiprocessing.get_context("spawn")


class Counter(Protocol):
    """A number that one process writes and another reads."""

    value: int


def new_counter() -> Counter:
    """A counter at 0; passed to a consumer, which alone writes it."""
    counter: Counter = SPAWN.RawValue("q", 0)
    return counter


def run_loop(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def give_up_after(seconds: float) -> None:
    """Kill this process after `seconds`, or as soon as the one that started it is gone."""
    end_with_parent()
    signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def beside(main: Callable[..., Coroutine[Any, Any, Any]], timeout: float, *args: Any) -> Iterator[Connection]:
    """Run `main(connection, *args)` in a process beside this one for as long as the block lasts.

    Yields this side's end of the connection. The process is killed at the end of the block.
    """
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_side, args=(main, timeout, theirs, *args))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        stop(process)
        ours.close()


def _side(main: Callable[..., Coroutine[Any, Any, Any]], timeout: float, connection: Connection, *args: Any) -> None:
    give_up_after(timeout)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_loop(main(connection, *args))


def stop(process: BaseProcess) -> None:
    """Kill a process of ours and wait for its end: what it holds is thrown away with its server."""
    process.kill()
    process.join()


async def receive(connection: Connection, timeout: float = 30.0) -> Any:
    """The next thing the process beside sends, without blocking the loop.

    Raises:
        TimeoutError: nothing came.
        EOFError: the process has ended.
    """
    ready = await asyncio.to_thread(connection.poll, timeout)
    if not ready:
        raise TimeoutError(f"the process beside sent nothing for {timeout} s")
    return connection.recv()
