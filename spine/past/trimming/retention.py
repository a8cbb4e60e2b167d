"""How long the log keeps events: the rule of a namespace, and the seq that it means now."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from spine import clock
from spine.connection import Server
from spine.errors import InvalidInput
from spine.log.reader import Reader, Selection

FIELD = "retention"


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace keeps.

    Attributes:
        age_s: events of the last so many seconds.
        events: the newest so many.
    """

    age_s: float | None = None
    events: int | None = None

    @classmethod
    def of(cls, keep: timedelta | int) -> Retention:
        """Return the rule to keep an age, or a number of events. Raises `InvalidInput`."""
        if isinstance(keep, timedelta):
            if keep.total_seconds() <= 0:
                raise InvalidInput(f"keep={keep} would keep nothing")
            return cls(age_s=keep.total_seconds())
        if keep < 1:
            raise InvalidInput(f"keep={keep} would keep nothing")
        return cls(events=keep)


async def read_retention(server: Server) -> Retention | None:
    """Return the rule of the namespace; ``None`` when it keeps everything."""
    raw = await server.command("HGET", server.keys.meta, FIELD)
    return None if raw is None else msgspec.json.decode(raw, type=Retention)


async def write_retention(server: Server, rule: Retention | None) -> None:
    """Keep the rule with the namespace; ``None`` keeps everything from now on."""
    if rule is None:
        await server.command("HDEL", server.keys.meta, FIELD)
    else:
        await server.command("HSET", server.keys.meta, FIELD, msgspec.json.encode(rule))


async def target_of(reader: Reader, rule: Retention) -> int:
    """Return the seq up to which events may go by `rule`, 0 for none."""
    if rule.age_s is not None:
        now_ms = clock.ms_of(await reader.server.command("TIME"))
        return await reader.last_before(now_ms - round(rule.age_s * 1000))
    return await _before_the_newest(reader, rule.events or 0)


async def _before_the_newest(reader: Reader, count: int) -> int:
    """Return the seq before the newest `count` events. Where the numbers jumped, nothing is counted."""
    top = await reader.head()
    extents = await reader.extents(Selection())
    jumps = await reader.server.command("LRANGE", reader.server.keys.epochs, 0, -1)
    for line in reversed(jumps):
        base = int(line.split(b" ")[1])
        if base >= top:
            continue
        if top - base >= count:
            return top - count
        count -= top - base
        top = await reader.previous(extents, base)
    return max(0, top - count)
