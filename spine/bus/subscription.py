"""A subscription of the bus, and what becomes of one call of its callback."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from spine.bus.dispatch import Dispatch
from spine.bus.messages import EventData
from spine.bus.parts import Parts
from spine.bus.shared import handled
from spine.errors import InvalidInput, LateResponse
from spine.events import Event
from spine.failures import FROM_OUTSIDE
from spine.log.subscriptions import Subscription

logger = logging.getLogger("spine")

Callback = Callable[[EventData], Awaitable[Any] | Any]


class BusSubscription:
    """A running subscription of the bus.

    Attributes:
        event_type: type or pattern; several are joined by commas.
        callback: what is called.
        id: what it goes by among the subscribers of all processes.
    """

    def __init__(self, event_type: str, callback: Callback, id: str, dispatch: Dispatch) -> None:
        self.event_type = event_type
        self.callback = callback
        self.id = id
        self.dispatch = dispatch
        self.feed: Subscription

    async def stop(self) -> None:
        """Start no further callback; those that run go on. `AgentEventBus.unsubscribe` is what users call."""
        self.dispatch.stop()
        await self.feed.stop()

    @property
    def lag(self) -> int:
        """Numbers between the newest event known here and the last one handed to the callback."""
        return self.feed.lag


def check_callback(callback: Any) -> None:
    """Raise `InvalidInput` for what cannot be called with an event alone."""
    if not callable(callback):
        raise InvalidInput(f"the callback is a function of one event, not {callback!r}")
    try:
        inspect.signature(callback).bind(object())
    except TypeError as error:
        raise InvalidInput(f"the callback is called with the event alone, which {callback!r} is not: {error}") from None
    except ValueError:  # a built-in that does not say what it takes
        return


async def call_back(parts: Parts, subscription: BusSubscription, event: Event[Any]) -> None:
    """Run one callback for one event; nothing but a cancellation leaves this."""
    handled.set(event)
    asked = event.context.reply_to is not None
    if asked:
        parts.responder.remember(event)
    try:
        result = subscription.callback(EventData.of(event))
        if inspect.isawaitable(result):
            result = await result
        if asked:
            await parts.responder.take(event, result)
    except LateResponse as late:  # counted where it was refused
        logger.info("callback of %s: %s", subscription.event_type, late)
    except FROM_OUTSIDE:
        raise
    except BaseException as error:
        name = subscription.event_type
        logger.exception("callback of %s failed on event %d (%s)", name, event.seq, event.type)
        parts.shared.failed("callback", event.type, str(event.seq), error)
        if asked:
            await parts.responder.tell_of_failure(event, subscription.id, error)
    else:
        parts.shared.recorder.handled[event.type] += 1
