"""Several worker processes kept running: one that dies is replaced, all end together, none outlives its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from spine.embedded import bound_exec

logger = logging.getLogger("spine")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 10.0
# A worker that lived for this long died of something else than its start.
SETTLED_S = 10.0
KILL_MARGIN_S = 5.0

Command = Callable[[str], Sequence[str]]
OnDeath = Callable[[str], Awaitable[None]]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How the workers ended.

    Attributes:
        drained: all of them in order.
        fatal: exit code of a worker that could not even start; ``None`` when there was none.
    """

    drained: bool
    fatal: int | None = None


def restart_delay_s(deaths: int) -> float:
    """Return how long to wait before replacing a worker after `deaths` deaths in a row, each soon after its start."""
    return 0.0 if deaths == 0 else float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(deaths - 1, 30)))


def described(code: int) -> str:
    """Return an exit code of a process in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


class Supervisor:
    """Keeps `count` worker processes running until it is stopped.

    Each is a session of its own, so that a Ctrl-C at the terminal reaches the supervisor alone, which passes on one
    signal. On Linux the kernel kills the workers when the supervisor dies, however it dies.

    Args:
        command: the command line of the worker of an id; ids are never used twice.
        count: how many.
        name: what ids start with.
        environment: of the workers.
        shutdown_timeout_s: how long workers may take to drain; killed a few seconds later.
        on_death: called with the id of each worker that died unexpectedly, before it is replaced.
        fatal: exit codes that mean no worker can start: when a first worker ends so, all end.
    """

    def __init__(
        self,
        command: Command,
        count: int,
        *,
        name: str,
        environment: Mapping[str, str],
        shutdown_timeout_s: float,
        on_death: OnDeath,
        fatal: frozenset[int],
    ) -> None:
        self._command = command
        self._count = count
        self._name = name
        self._environment = dict(environment)
        self._shutdown_timeout_s = shutdown_timeout_s
        self._on_death = on_death
        self._fatal = fatal
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._drained = True
        self._fatal_code: int | None = None

    async def run(self) -> Ended:
        """Return when all workers have ended after `stop`, or could not start."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in range(1, self._count + 1):
                    group.create_task(self._keep(slot), name=f"spine-worker-{slot}")
                group.create_task(self._end_in_time(), name="spine-workers-end")
        finally:
            self.kill()
        return Ended(drained=self._drained, fatal=self._fatal_code)

    def stop(self) -> None:
        """Let the workers drain; no more are started."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._signal_all(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the workers."""
        self._stopping.set()
        self._signal_all(signal.SIGKILL)

    async def _keep(self, slot: int) -> None:
        deaths = 0
        incarnation = 0
        while not self._stopping.is_set():
            incarnation += 1
            worker = f"{self._name}.{slot}.{incarnation}"
            began = asyncio.get_running_loop().time()
            code = await self._live(worker)
            if self._stopping.is_set():
                # One that was told before it could listen had nothing in hand.
                self._drained = self._drained and code in (0, -signal.SIGTERM)
                return
            if code in self._fatal and incarnation == 1:
                self._fatal_code = code
                self.stop()
                return
            deaths = deaths + 1 if asyncio.get_running_loop().time() - began < SETTLED_S else 1
            await self._replace_after(worker, code, restart_delay_s(deaths))

    async def _live(self, worker: str) -> int:
        """Start a worker and return its exit code."""
        process = await asyncio.create_subprocess_exec(
            *bound_exec.command(signal.SIGKILL, list(self._command(worker))),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._processes[worker] = process
        if self._stopping.is_set():
            self._signal(process, signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._processes[worker]

    async def _replace_after(self, worker: str, code: int, delay_s: float) -> None:
        logger.warning("worker %s died (%s); another takes its place in %.1f s", worker, described(code), delay_s)
        try:
            await self._on_death(worker)
        except Exception as error:
            logger.warning("what worker %s held is free when its lease ends: %s", worker, error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()

    async def _end_in_time(self) -> None:
        """Kill what has not ended a few seconds after the time to drain is over."""
        await self._stopping.wait()
        give_up = asyncio.get_running_loop().time() + self._shutdown_timeout_s + KILL_MARGIN_S
        while self._processes and asyncio.get_running_loop().time() < give_up:
            waiting = [asyncio.create_task(process.wait()) for process in self._processes.values()]
            await asyncio.wait(waiting, timeout=give_up - asyncio.get_running_loop().time())
            for task in waiting:
                task.cancel()
        for worker, process in self._processes.items():
            logger.error("worker %s did not end in time: killed", worker)
            self._signal(process, signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            self._signal(process, number)

    @staticmethod
    def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
