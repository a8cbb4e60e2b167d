"""What the tests of state ask for besides: workers in this process, and another namespace."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from ledger import Connect, Serve

from spine.keys import Keys
from spine.worker import Worker


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


@pytest.fixture
async def other(raw: redis.asyncio.Redis) -> AsyncIterator[str]:
    """Another namespace, deleted after the test."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    found = [key async for key in raw.scan_iter(match=Keys(name).all(), count=1000)]
    if found:
        await raw.unlink(*found)
