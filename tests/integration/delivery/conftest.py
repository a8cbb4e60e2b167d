"""What the tests of delivery ask for besides: workers in this process, and a way to let one die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from spine import Spine
from spine.agent import Agent
from spine.worker import Worker

Connect = Callable[..., Awaitable[Spine]]
Serve = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def serve(connect: Connect) -> AsyncIterator[Serve]:
    """Starts workers, each with a client of its own, that are stopped after the test."""
    serving: list[Worker] = []

    async def start(*agents: type[Agent[Any]], to: str | None = None, **options: Any) -> Worker:
        options.setdefault("shutdown_timeout_s", 5.0)
        worker = Worker(await connect(to), *agents, **options)
        await worker.start()
        serving.append(worker)
        return worker

    yield start
    await asyncio.gather(*(worker.stop() for worker in serving if not getattr(worker, "dead", False)))
