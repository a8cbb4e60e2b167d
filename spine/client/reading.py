"""What the client reads: the log up to now, as it grows, backwards, or with a callback."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Any

from spine.catalog.upcast import upcast_all
from spine.client.parts import Parts
from spine.errors import InvalidInput
from spine.events import Event, to_ms
from spine.log.feed import Feed
from spine.log.floors import Gaps
from spine.log.reader import Selection
from spine.log.subscriptions import EventCallback, Subscription
from spine.names import check_key, check_pattern

Moment = int | datetime
Types = str | Iterable[str]


class Reading(Parts):
    """The part of the client that reads events."""

    async def seq_at(self, moment: Moment, *, inclusive: bool = False) -> int:
        """Return the seq that a time stands for: all before it is up to that. A seq stays one.

        With `inclusive`, what was stored in that millisecond is up to it as well: so a state or a range that ends at
        the `ts` of an event, or at a clock just read, has all that was there by then.
        """
        if isinstance(moment, datetime):
            return await self.reader.last_before(to_ms(moment) + inclusive)
        if type(moment) is not int:
            raise InvalidInput(f"a moment is a seq or a datetime, not {moment!r}")
        if moment < 0:
            raise InvalidInput(f"a seq is 0 or more, not {moment}")
        return moment

    async def head(self, at: Moment | None = None) -> int:
        """Return the last number given: everything up to it is in the log.

        With `at`, a seq or a time (its millisecond with it), the last number given by then.
        """
        head = await self.reader.head()
        return head if at is None else min(head, await self.seq_at(at, inclusive=True))

    async def replay(
        self,
        *,
        after: Moment = 0,
        until: Moment | None = None,
        types: Types = (),
        key: str | None = None,
        correlation: str | None = None,
    ) -> AsyncGenerator[Event[Any], None]:
        """Yield the events of the log up to the present (or `until`), in seq order, in constant memory.

        Args:
            after: a seq (exclusive), or a time since when.
            until: a seq (inclusive), or a time, its millisecond with it; the present where left out.
            types: types or patterns with ``*``.
            key: only this key.
            correlation: only this correlation.

        Raises `ReplayGap` when events that it would begin with were trimmed away.
        """
        selection = _selection(types, key, correlation)
        start, end = await self.seq_at(after), await self.head(until)
        gaps = Gaps(self.server, selection)
        await gaps.check(start)
        async with aclosing(self.reader.batches(selection, start, end)) as batches:
            async for events in batches:
                await gaps.check(start, events)
                for event in upcast_all(events):
                    yield event
                start = events.last

    async def tail(
        self,
        *,
        types: Types = (),
        after: Moment | None = None,
        key: str | None = None,
        correlation: str | None = None,
    ) -> AsyncGenerator[Event[Any], None]:
        """Yield events as they are appended, for ever, in seq order; from the present on, or after `after`.

        A reader that is slow falls behind: the events wait in Redis, not in memory. Raises `ReplayGap` when they were
        trimmed away meanwhile.
        """
        feed = await self._feed(_selection(types, key, correlation), after)
        try:
            async with aclosing(feed.events()) as events:
                async for event in events:
                    yield event
        finally:
            feed.stop()

    async def history(
        self,
        *,
        types: Types = (),
        since: Moment = 0,
        until: Moment | None = None,
        key: str | None = None,
        correlation: str | None = None,
        limit: int = 50,
    ) -> list[Event[Any]]:
        """Return the newest events first, `limit` at most; `since` and `until` are `replay`'s `after` and `until`."""
        if type(limit) is not int or limit < 1:
            raise InvalidInput(f"limit must be a number, at least 1, not {limit!r}")
        selection = _selection(types, key, correlation)
        start, end = await self.seq_at(since), await self.head(until)
        found: list[Event[Any]] = []
        async with aclosing(self.reader.backward(selection, start, end)) as events:
            async for event in events:
                found.append(event)
                if len(found) == limit:
                    break
        return found

    async def subscribe(self, types: Types, callback: EventCallback, *, after: Moment | None = None) -> Subscription:
        """Call `callback` (plain or async) with every event of `types` from now on, in this process, in seq order.

        A failing callback is reported in the log and hurts no other. Stop it with ``await subscription.stop()``.
        """
        if not callable(callback):
            raise InvalidInput(f"callback must be a function of an event, not {callback!r}")
        selection = _selection(types, None, None)
        feed = await self._feed(selection, after)
        subscription = Subscription(feed, selection.types, callback, lambda: self.server.highest_seen)
        self._subscriptions = [running for running in self._subscriptions if running.running] + [subscription]
        return subscription

    async def _feed(self, selection: Selection, after: Moment | None) -> Feed:
        start = await self.head() if after is None else await self.seq_at(after)
        await Gaps(self.server, selection).check(start)
        feed = Feed(self.server, self.reader, self.listener, selection, start)
        await feed.start()
        return feed


def _selection(types: Types, key: str | None, correlation: str | None) -> Selection:
    if not isinstance(types, Iterable):
        raise InvalidInput(f"types are names or patterns like 'order.*', not {types!r}")
    wanted = (types,) if isinstance(types, str) else tuple(types)
    for pattern in wanted:
        check_pattern(pattern)
    if key is not None:
        check_key(key)
    if correlation is not None:
        check_key(correlation, "correlation")
    return Selection(types=wanted, key=key, correlation=correlation)
