"""What the parts of one bus share, and the context that flows from an event to what is emitted while it is handled."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel

from spine.bus.metrics import ErrorKind, Recorder
from spine.bus.types import Data
from spine.catalog.types import Catalog
from spine.client import Spine
from spine.events import Event
from spine.log.drafts import Drafts

ErrorT = TypeVar("ErrorT", bound=BaseException)
KEY_FIELDS = ("conversation_id", "session_id")

handled: ContextVar[Event[Any] | None] = ContextVar("spine-bus-handled", default=None)


class Shared(msgspec.Struct, frozen=True, eq=False):
    """What the parts of one bus share.

    Attributes:
        spine: the client.
        drafts: checks against the bus's catalogue.
        catalog: the types.
        recorder: counts.
        agent_type: who emits, where a call does not say.
        responses: models of responses, by type of the event.
    """

    spine: Spine
    drafts: Drafts
    catalog: Catalog
    recorder: Recorder
    agent_type: str | None
    responses: dict[str, type[BaseModel]]

    def failed(self, kind: ErrorKind, event_type: str, event_id: str | None, error: ErrorT) -> ErrorT:
        """Note an error and return it."""
        self.recorder.failed(kind, event_type, event_id, error)
        return error


def key_of(data: Data) -> str | None:
    """Return the id of the conversation or session that `data` is about."""
    values = data.model_dump(include=set(KEY_FIELDS)) if isinstance(data, BaseModel) else data
    if not isinstance(values, Mapping):
        return None
    return next((str(values[name]) for name in KEY_FIELDS if values.get(name)), None)
