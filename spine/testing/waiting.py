"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05


@overload
async def wait_until(condition: Callable[[], Awaitable[T]], timeout: float = ..., what: str = ...) -> T: ...


@overload
async def wait_until(condition: Callable[[], T], timeout: float = ..., what: str = ...) -> T: ...


async def wait_until(condition: Callable[[], Any], timeout: float = 10.0, what: str = "") -> Any:
    """Return what `condition` returns as soon as that is true; plain or async.

    Args:
        condition: asked again and again, first at once.
        timeout: seconds after which `AssertionError` says what was waited for and what came last.
        what: the thing waited for, in words; the condition's name where left out.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    pause = FIRST_PAUSE_S
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if loop.time() >= end:
            name = what or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"{name} did not come true within {timeout:g} s; it was {found!r} in the end")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
