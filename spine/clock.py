"""The server's time as this process takes it. It is the server's own, unless a test moves it (`spine.testing`).

Whatever goes by the server's time, in Lua as in Python, goes through here: deadlines, due times, leases, retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakMethod

Prepare = Callable[[int], Awaitable[None]]
Alarm = Callable[[], Awaitable[None] | None]

_moved_ms = 0
_before: list[tuple[WeakMethod[Prepare], asyncio.AbstractEventLoop]] = []
_after: list[tuple[WeakMethod[Alarm], asyncio.AbstractEventLoop]] = []


def moved_ms() -> int:
    """Return how far the clock was moved."""
    return _moved_ms


def ms_of(reply: Any) -> int:
    """Return the time in ms that a reply to TIME stands for."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000 + _moved_ms


def moved_script(source: str, ms: int) -> str:
    """Return a script that takes the time `ms` from the server's."""
    if not ms:
        return source
    return _MOVED_TIME % ms + source.replace("redis.call('TIME')", "moved_time()")


_MOVED_TIME = """local function moved_time()
  local time = redis.call('TIME')
  local micros = time[2] + %d * 1000
  return { string.format('%%.0f', time[1] + math.floor(micros / 1000000)), string.format('%%.0f', micros %% 1000000) }
end
"""


def before_move(prepare: Prepare) -> None:
    """Await the method `prepare` with the distance in ms before the clock is moved, as long as its object lives."""
    _note(_before, prepare)


def after_move(alarm: Alarm) -> None:
    """Call the method `alarm` (plain or async) after the clock was moved, as long as its object lives."""
    _note(_after, alarm)


def forget(owner: object) -> None:
    """Call no method of `owner` any more: it is closed."""
    both: tuple[list[Any], ...] = (_before, _after)
    for listeners in both:
        listeners[:] = [(other, loop) for other, loop in listeners if getattr(other(), "__self__", owner) is not owner]


def _note(listeners: list[Any], method: Callable[..., Any]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # nothing runs yet: there is no alarm to set anew
        return
    listeners[:] = [(other, loop_) for other, loop_ in listeners if other() is not None]
    listeners.append((WeakMethod(method), loop))


async def move(ms: int) -> None:
    """Move the clock of this process by `ms`; for tests."""
    global _moved_ms
    here = asyncio.get_running_loop()
    prepares = [method for reference, loop in _before if loop is here and (method := reference()) is not None]
    await asyncio.gather(*(prepare(ms) for prepare in prepares))
    _moved_ms += ms
    alarms = [alarm for reference, loop in _after if loop is here and (alarm := reference()) is not None]
    for alarm in alarms:
        pending = alarm()
        if pending is not None:
            await pending


def reset() -> None:
    """Put the clock right again."""
    global _moved_ms
    _moved_ms = 0
