"""The common event as the spine's own values."""

from __future__ import annotations

from scripts.bench.events import TOPIC, context_of, payload_of
from spine import Context, Draft

ASK, DONE = "bench.ask", "bench.done"


def context(number: int) -> Context:
    """The common context as the spine's own value."""
    fields = context_of(number)
    return Context(
        correlation=fields["correlation"],
        session_id=fields["session"],
        session=fields["session_state"],
        constraints=fields["constraints"],
    )


def draft(number: int, topic: str = TOPIC) -> Draft:
    """The common event, not yet published."""
    return Draft(topic, payload_of(number), context=context(number))
