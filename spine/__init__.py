"""The event backbone that lets many agents work as one system, on Redis Streams.

Names are imported when they are first used: ``import spine`` and the command line stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spine.agent import Agent, on
    from spine.catalog.types import Catalog, EventType
    from spine.catalog.upcast import upcasts
    from spine.client import Spine
    from spine.coordination.answers import Answer, Answers, best, collect, majority
    from spine.coordination.fanout import AnswerStream
    from spine.coordination.gate import on_all, on_missing
    from spine.coordination.handoff import Sequence
    from spine.coordination.routing import Decision, Router, confidence, field, rule
    from spine.delivery.retry import Retry
    from spine.errors import (
        CoordinationError,
        DecodeError,
        EmbeddedServerError,
        HandoffLimit,
        HandoffLoop,
        InvalidContext,
        InvalidInput,
        InvalidName,
        InvalidPayload,
        LateResponse,
        LeaseLost,
        Misconfigured,
        MissingResponse,
        NamespaceMismatch,
        NoHandler,
        NoRoute,
        NotDurable,
        NotOpen,
        ReducerFailed,
        ReplayGap,
        RequestCycle,
        RequestError,
        RequestFailed,
        RequestTimeout,
        ServerRefused,
        ServerUnreachable,
        SpineError,
        StateConflict,
        StateError,
        StreamBlocked,
        TooLarge,
        Unavailable,
        UnknownVersion,
        UnsupportedServer,
    )
    from spine.events import Context, Draft, Durability, Event, Hop, Priority
    from spine.handling import Handling
    from spine.log.subscriptions import Subscription
    from spine.past.timetravel import Step
    from spine.state.fold import reduces
    from spine.state.projection import Projection
    from spine.timers import Scheduled
    from spine.worker import Worker, run

__all__ = [
    "Agent",
    "Answer",
    "AnswerStream",
    "Answers",
    "Catalog",
    "Context",
    "CoordinationError",
    "Decision",
    "DecodeError",
    "Draft",
    "Durability",
    "EmbeddedServerError",
    "Event",
    "EventType",
    "Handling",
    "HandoffLimit",
    "HandoffLoop",
    "Hop",
    "InvalidContext",
    "InvalidInput",
    "InvalidName",
    "InvalidPayload",
    "LateResponse",
    "LeaseLost",
    "Misconfigured",
    "MissingResponse",
    "NamespaceMismatch",
    "NoHandler",
    "NoRoute",
    "NotDurable",
    "NotOpen",
    "Priority",
    "Projection",
    "ReducerFailed",
    "ReplayGap",
    "RequestCycle",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "Retry",
    "Router",
    "Scheduled",
    "Sequence",
    "ServerRefused",
    "ServerUnreachable",
    "Spine",
    "SpineError",
    "StateConflict",
    "StateError",
    "Step",
    "StreamBlocked",
    "Subscription",
    "TooLarge",
    "Unavailable",
    "UnknownVersion",
    "UnsupportedServer",
    "Worker",
    "best",
    "collect",
    "confidence",
    "field",
    "majority",
    "on",
    "on_all",
    "on_missing",
    "reduces",
    "rule",
    "run",
    "upcasts",
]

# Where the public names live; all others are errors.
_HOMES = {
    "spine.agent": "Agent on",
    "spine.catalog.types": "Catalog EventType",
    "spine.catalog.upcast": "upcasts",
    "spine.client": "Spine",
    "spine.coordination.answers": "Answer Answers best collect majority",
    "spine.coordination.fanout": "AnswerStream",
    "spine.coordination.gate": "on_all on_missing",
    "spine.coordination.handoff": "Sequence",
    "spine.coordination.routing": "Decision Router confidence field rule",
    "spine.delivery.retry": "Retry",
    "spine.events": "Context Draft Durability Event Hop Priority",
    "spine.handling": "Handling",
    "spine.log.subscriptions": "Subscription",
    "spine.past.timetravel": "Step",
    "spine.state.fold": "reduces",
    "spine.state.projection": "Projection",
    "spine.timers": "Scheduled",
    "spine.worker": "Worker run",
}
_HOME = dict.fromkeys(__all__, "spine.errors")
_HOME |= {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'spine' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
