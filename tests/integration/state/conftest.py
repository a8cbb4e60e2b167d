"""What the tests of state ask for besides: workers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ledger import Connect, Serve

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
