"""What the tests of coordination ask for besides: workers in this process, and in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from worker_processes import Processes, Serve

from spine import Agent, Spine, Worker

Connect = Callable[..., Awaitable[Spine]]


@pytest.fixture
async def serve(connect: Connect) -> AsyncIterator[Serve]:
    """Runs agents in this process until the test ends, on a client of their own."""
    workers: list[Worker] = []

    async def start(*agents: type[Agent[Any]], **options: Any) -> Worker:
        client = await connect(name="worker")
        worker = Worker(client, *agents, **({"shutdown_timeout_s": 0.3} | options))
        await worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        await worker.stop()


@pytest.fixture
async def processes(url: str, namespace: str, raw: redis.asyncio.Redis) -> AsyncIterator[Processes]:
    started = Processes(url, namespace, raw)
    yield started
    await started.close()
