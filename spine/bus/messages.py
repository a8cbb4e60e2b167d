"""What the bus hands out: an event as its subscribers see it, and the response to one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from spine.client import DEFAULT_CLIENT_NAME
from spine.errors import InvalidInput
from spine.events import Event
from spine.payloads import as_model

ModelT = TypeVar("ModelT", bound=BaseModel)
Model = type[ModelT]


class EventData(BaseModel):
    """An event on the bus; one that you make for a test of a callback needs no more than type, data and timestamp.

    Attributes:
        type: its type's name.
        data: its payload.
        agent_type: who emitted it; ``None`` where nobody said.
        timestamp: when it was stored, by the server's clock.
        event_id: what `respond` and `history` know it by, in every process: its seq as text.
        key: unit of order and of optimistic concurrency.
        correlation: what it belongs to.
        awaits_response: somebody waits for a response.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    data: dict[str, Any]
    agent_type: str | None = None
    timestamp: datetime
    event_id: str = ""
    key: str = ""
    correlation: str = ""
    awaits_response: bool = False

    @classmethod
    def of(cls, event: Event[Any]) -> EventData:
        """Return an event of the log as subscribers see it."""
        return cls.model_construct(
            type=event.type,
            data=event.payload,
            agent_type=None if event.source == DEFAULT_CLIENT_NAME else event.source,
            timestamp=event.ts,
            event_id=str(event.seq),
            key=event.key,
            correlation=event.context.correlation,
            awaits_response=event.context.reply_to is not None,
        )

    @property
    def seq(self) -> int:
        """Number of the event in the log."""
        return int(self.event_id)

    def as_model(self, model: Model[ModelT]) -> ModelT:
        """Return the data as a `model`."""
        return as_model(model, self.data)


EventId = str | int | EventData | Event[Any]


def seq_of(event_id: EventId) -> int:
    """Return the number of an event that is given by its id, its number, or as such. Raises `InvalidInput`."""
    if isinstance(event_id, EventData | Event):
        return event_id.seq
    if isinstance(event_id, str) and event_id.isascii() and event_id.isdecimal():
        return int(event_id)
    if isinstance(event_id, int) and not isinstance(event_id, bool) and event_id >= 0:
        return event_id
    raise InvalidInput(f"{event_id!r} is not the id of an event")


class ResponseData(BaseModel):
    """The response to an event.

    Attributes:
        event_id: of the event responded to.
        response: what was responded.
        timestamp: when it was stored, by the server's clock.
    """

    model_config = ConfigDict(frozen=True)

    event_id: str
    response: dict[str, Any]
    timestamp: datetime

    @classmethod
    def of(cls, event_id: str, answer: Event[Any]) -> ResponseData:
        """Return the answer to an event as a response."""
        return cls.model_construct(event_id=event_id, response=answer.payload, timestamp=answer.ts)

    def as_model(self, model: type[ModelT]) -> ModelT:
        """Return the response as a `model`."""
        return as_model(model, self.response)
