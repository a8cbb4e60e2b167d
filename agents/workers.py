"""The worker processes of the reference team: each is one `spine run`, as anybody would start it."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from spine import Spine, SpineError

TEAM = {
    "inquiry": "agents.inquiry:Inquiry",
    "concierge": "agents.concierge:Concierge",
    "review": "agents.review:Review",
    "desk": "agents.desk:Desk",
    "scheduling": "agents.scheduling:Scheduling",
    "calendar": "agents.calendar:Calendar",
    "provider": "agents.provider:Provider",
    "document": "agents.document:Document",
}
PROCESSES = (  # those that have little to do share one
    ("inquiry",),
    ("concierge", "review"),
    ("scheduling",),
    ("desk", "calendar", "provider"),
    ("document",),
)
APP_DIR = Path(__file__).parents[1]
READY_SECONDS = 30.0
POLL_SECONDS = 0.02
RESTART_SECONDS = 0.2  # so that one which ends at once, again and again, leaves room for the others
STOP_SECONDS = 10.0
LINES_KEPT = 40


class WorkerFailed(Exception):
    """A worker ended before it ever worked; the message holds what it said."""


@dataclass
class _Running:
    process: asyncio.subprocess.Process
    said: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))


class Workers:
    """Starts the workers and, whatever happens, stops them. One that is killed is started again.

    Args:
        per_agent: how many of each of `PROCESSES`.
        environment: what they find in theirs, beside our own.
        report: told in one line of everything that is not routine.
        team: what `spine run` is given, by agent.
    """

    def __init__(
        self,
        per_agent: int,
        environment: Mapping[str, str],
        report: Callable[[str], None],
        team: Mapping[str, str] = TEAM,
    ) -> None:
        self._team = team
        self._agents = {", ".join(agents): agents for agents in PROCESSES}
        self._per_agent = per_agent
        self._environment = {**os.environ, **environment}
        self._report = report
        self._running: dict[str, _Running] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._failed: WorkerFailed | None = None
        self._working_on: Spine | None = None  # from when all are ready, one that ends is started again

    async def __aenter__(self) -> Self:
        try:
            for name in self._agents:
                await self._start(name)
        except BaseException:
            await self._stop()
            raise
        self._keepers = [asyncio.create_task(self._keep(name), name=f"keep {name}") for name in self._agents]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._stop()

    async def ready(self, spine: Spine) -> None:
        """Return once every agent has its workers, as the spine knows them.

        Raises:
            WorkerFailed: one ended before it was ready, or they take longer than `READY_SECONDS`.
        """
        try:
            async with asyncio.timeout(READY_SECONDS):
                for agent in self._team:
                    await self._alive(spine, agent)
        except TimeoutError:
            raise WorkerFailed(f"the workers were not ready within {READY_SECONDS:.0f} s") from None
        self._working_on = spine

    async def _alive(self, spine: Spine, agent: str) -> None:
        while len(await spine.workers(agent)) < self._per_agent:
            if self._failed:
                raise self._failed
            await asyncio.sleep(POLL_SECONDS)

    async def _start(self, name: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spine", "run", *(self._team[agent] for agent in self._agents[name])),
            *("--workers", str(self._per_agent), "--app-dir", str(APP_DIR), "--parent", str(os.getpid())),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we stop them in order
        )
        self._running[name] = _Running(process)

    async def _keep(self, name: str) -> None:
        while True:
            running = self._running[name]
            assert running.process.stderr is not None
            async for line in running.process.stderr:
                running.said.append(line.decode(errors="replace").rstrip())
            code = await running.process.wait()
            if self._working_on is None:
                self._failed = WorkerFailed(f"{name} ended with {code} at its start:\n" + "\n".join(running.said))
                return
            self._report(f"{name} ended with {code}; another one takes its place")
            await asyncio.sleep(RESTART_SECONDS)
            with contextlib.suppress(SpineError):  # then it is free when its leases end
                await self._free(self._working_on, name, running.process.pid)
            await self._start(name)

    async def _free(self, spine: Spine, name: str, pid: int) -> None:
        """Let others have at once what a dead worker held."""
        for agent in self._agents[name]:
            for worker in await spine.workers(agent):
                if worker.pid == pid:
                    await spine.expire_worker(worker.worker)

    async def _stop(self) -> None:
        """Let all finish what they have in hand; what takes too long, or a second Ctrl-C meanwhile, kills them."""
        processes = [running.process for running in self._running.values() if running.process.returncode is None]
        for process in processes:
            process.terminate()
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await _all_ended(processes)
            finally:
                for process in processes:
                    if process.returncode is None:
                        process.kill()
                await _all_ended(processes)


async def _all_ended(processes: list[asyncio.subprocess.Process]) -> None:
    await asyncio.gather(*(process.communicate() for process in processes))
