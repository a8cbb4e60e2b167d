"""What a test sees of the log."""

from __future__ import annotations

from typing import Any

from spine import Event, Spine
from spine.testing.waiting import wait_until


async def events_of(spine: Spine, *types: str) -> list[Event[Any]]:
    """Return every event of `types` that is in the log."""
    return [event async for event in spine.replay(types=types)]


async def wait_for_events(spine: Spine, count: int, *types: str, timeout: float = 20) -> list[Event[Any]]:
    """Wait until the log holds `count` events of `types`; return them all."""

    async def there() -> list[Event[Any]]:
        found = await events_of(spine, *types)
        return found if len(found) >= count else []

    return await wait_until(there, timeout, f"{count} events of {types}")


async def nothing_left_to_do(spine: Spine) -> None:
    """Wait until no agent has an event before it, those of held keys left out."""

    async def idle() -> bool:
        return all(lag.not_taken + lag.pending == 0 for lag in await spine.lag())

    await wait_until(idle, 20, "every event handled")
