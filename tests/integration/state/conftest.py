"""What the tests of state ask for: clients, workers in this process, the server's own view."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from ledger import Connect, Serve

from spine import Spine
from spine.worker import Worker


@pytest.fixture
async def connect(url: str, namespace: str) -> AsyncIterator[Connect]:
    """Opens clients that are closed after the test; of this run's server where no URL is given."""
    opened: list[Spine] = []

    async def open_one(to: str | None = None, **options: Any) -> Spine:
        spine = Spine(to or url, **({"namespace": namespace} | options))
        await spine.open()
        opened.append(spine)
        return spine

    yield open_one
    for spine in reversed(opened):
        with contextlib.suppress(Exception):
            await spine.close()


@pytest.fixture
async def spine(connect: Connect) -> Spine:
    """A client of the test's namespace, without agents."""
    return await connect()


@pytest.fixture
async def raw(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """The server without spine in between."""
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


@pytest.fixture
async def serve(connect: Connect) -> AsyncIterator[Serve]:
    """Starts workers, each with a client of its own; those that still run are stopped after the test."""
    serving: list[Worker] = []

    async def start(*kinds: Any, to: str | None = None, **options: Any) -> Worker:
        options.setdefault("shutdown_timeout_s", 5.0)
        worker = Worker(await connect(to), *kinds, **options)
        await worker.start()
        serving.append(worker)
        return worker

    yield start
    await asyncio.gather(*(worker.stop() for worker in serving), return_exceptions=True)
