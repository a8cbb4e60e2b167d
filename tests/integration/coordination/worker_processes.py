"""Worker processes that tests kill, and meetings with handlers in the middle of their work (see `meeting.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio

from spine import Worker
from spine.testing.waiting import wait_until

HERE = Path(__file__).parent
LEASE_S = 1.0

Serve = Callable[..., Awaitable[Worker]]


class Process:
    """A worker process of a test; `kill` is SIGKILL."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._process.stdout is not None:
            await self._process.stdout.read()


class Processes:
    """Starts worker processes, and lets tests meet handlers in the middle of their work (see `meeting.py`)."""

    def __init__(self, url: str, namespace: str, raw: redis.asyncio.Redis) -> None:
        self._url = url
        self._namespace = namespace
        self._raw = raw
        self._running: list[Process] = []

    async def start(self, module: str, *agents: str, slots: int = 0) -> Process:
        """Start the named agents of a module of this directory; return when they hold their partitions."""
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "worker_process.py"),
            *(self._url, self._namespace, str(LEASE_S), str(slots), module, *agents),
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        process = Process(started)
        self._running.append(process)
        assert started.stdout is not None
        assert (await asyncio.wait_for(started.stdout.readline(), 30)).strip() == b"ready"
        return process

    async def reached(self, place: str, times: int = 1) -> None:
        """Wait until a handler has come to `place`."""

        async def there() -> bool:
            return int(await self._raw.get(f"spine:{{{self._namespace}}}:test:reached:{place}") or 0) >= times

        await wait_until(there, 20, f"a handler at {place}")

    async def let_pass(self, place: str) -> None:
        """Let whoever comes to `place` go on."""
        await self._raw.set(f"spine:{{{self._namespace}}}:test:open:{place}", "1")

    async def close(self) -> None:
        for process in self._running:
            await process.kill()
