"""Who is subscribed: how long a caller waits to hear that nobody is."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from spine.bus import subscribers
from spine.bus.subscribers import Subscribers
from spine.keys import Keys


async def test_a_server_that_stays_slow_keeps_no_caller_from_hearing_that_nobody_is_subscribed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each look is as slow as one at a server that has just come back."""
    monkeypatch.setattr(subscribers, "LOOK_S", 0.001)
    monkeypatch.setattr(subscribers, "RETURN_S", 0.05)
    server: Any = SimpleNamespace(keys=Keys("unit"), namespace=SimpleNamespace(epoch="e"))
    known = Subscribers(server, None)

    async def slow() -> list[Any]:
        await asyncio.sleep(0.01)
        return []

    monkeypatch.setattr(known, "all", slow)
    async with asyncio.timeout(5):
        assert not await known.any_of("step")
