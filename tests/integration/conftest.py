"""Clients of the test's namespace that are closed after it, and the server's own view."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from spine import Spine

Connect = Callable[..., Awaitable[Spine]]


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
        with contextlib.suppress(Exception):  # its server may be gone
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
