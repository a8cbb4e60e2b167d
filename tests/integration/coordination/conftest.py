"""Clients of the test's namespace, workers in this process, and workers in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from worker_processes import Processes, Serve

from spine import Agent, Spine, Worker

Connect = Callable[..., Awaitable[Spine]]


@pytest.fixture
async def connect(url: str, namespace: str) -> AsyncIterator[Connect]:
    opened: list[Spine] = []

    async def open_one(**options: Any) -> Spine:
        spine = Spine(url, namespace=namespace, **options)
        await spine.open()
        opened.append(spine)
        return spine

    yield open_one
    for spine in reversed(opened):
        await spine.close()


@pytest.fixture
async def spine(connect: Connect) -> Spine:
    return await connect()


@pytest.fixture
async def raw(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


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
