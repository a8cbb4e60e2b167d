"""The predefined event types of the bus, each with the model of its payload.

Every model says which fields it knows and of what type they are; all may be left out, and further ones pass through:
they are the platform's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from spine.catalog.types import EventType
from spine.errors import InvalidName, InvalidPayload
from spine.names import plain

EventTypeName = str | type[EventType]
Data = Mapping[str, Any] | BaseModel


class AgentEventType(StrEnum):
    """The predefined types; each stands for its name wherever a type is asked for."""

    # system
    CONVERSATION_CREATED = "conversation.created"
    CONVERSATION_UPDATED = "conversation.updated"
    CONTEXT_REQUESTED = "context.requested"
    SESSION_CREATED = "session.created"
    SESSION_UPDATED = "session.updated"
    # process
    MESSAGE_RECEIVED = "message.received"
    MESSAGE_PROCESSED = "message.processed"
    LANGUAGE_NORMALIZED = "language.normalized"
    TRANSCRIPTION_COMPLETED = "transcription.completed"
    # state
    FOLDER_STRUCTURE_DETERMINED = "folder.structure.determined"
    ORION_STATE_CHANGED = "orion.state.changed"
    UPGRADE_REQUESTED = "upgrade.requested"
    UPGRADE_COMPLETED = "upgrade.completed"


(
    CONVERSATION_CREATED,
    CONVERSATION_UPDATED,
    CONTEXT_REQUESTED,
    SESSION_CREATED,
    SESSION_UPDATED,
    MESSAGE_RECEIVED,
    MESSAGE_PROCESSED,
    LANGUAGE_NORMALIZED,
    TRANSCRIPTION_COMPLETED,
    FOLDER_STRUCTURE_DETERMINED,
    ORION_STATE_CHANGED,
    UPGRADE_REQUESTED,
    UPGRADE_COMPLETED,
) = AgentEventType


class BusPayload(EventType):
    """A payload that may carry more than its model names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        """What was left out is left out of the log as well; a return type here would stand for the JSON schema."""
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class ConversationCreated(BusPayload, name=AgentEventType.CONVERSATION_CREATED):
    """A conversation begins."""

    conversation_id: str | None = None
    session_id: str | None = None
    participants: tuple[str | dict[str, Any], ...] = ()


class ConversationUpdated(BusPayload, name=AgentEventType.CONVERSATION_UPDATED):
    """Something about a conversation is different now."""

    conversation_id: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)


class ContextRequested(BusPayload, name=AgentEventType.CONTEXT_REQUESTED):
    """Somebody needs the context of a conversation; emitted to be answered."""

    conversation_id: str | None = None
    fields: tuple[str, ...] = ()  # which parts of it; empty for all


class SessionCreated(BusPayload, name=AgentEventType.SESSION_CREATED):
    """A session begins."""

    session_id: str | None = None
    user_id: str | None = None


class SessionUpdated(BusPayload, name=AgentEventType.SESSION_UPDATED):
    """Something about a session is different now."""

    session_id: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)


class MessageReceived(BusPayload, name=AgentEventType.MESSAGE_RECEIVED):
    """A message came in."""

    message_id: str | None = None
    conversation_id: str | None = None
    text: str = ""


class MessageProcessed(BusPayload, name=AgentEventType.MESSAGE_PROCESSED):
    """A message was dealt with."""

    message_id: str | None = None
    conversation_id: str | None = None
    result: Any = None


class LanguageNormalized(BusPayload, name=AgentEventType.LANGUAGE_NORMALIZED):
    """A message was brought into the platform's language."""

    message_id: str | None = None
    text: str | None = None
    language: str | None = None  # that of the text now
    original_language: str | None = None


class TranscriptionCompleted(BusPayload, name=AgentEventType.TRANSCRIPTION_COMPLETED):
    """Speech became text."""

    message_id: str | None = None
    text: str | None = None
    language: str | None = None
    duration_s: float | None = None  # of the speech


class FolderStructureDetermined(BusPayload, name=AgentEventType.FOLDER_STRUCTURE_DETERMINED):
    """It was settled which folders there are to be."""

    root: str | None = None
    folders: tuple[str, ...] | dict[str, Any] = ()  # paths below the root, or the tree itself


class OrionStateChanged(BusPayload, name=AgentEventType.ORION_STATE_CHANGED):
    """The platform went from one state to another."""

    state: str | dict[str, Any] | None = None
    previous: str | dict[str, Any] | None = None


class UpgradeRequested(BusPayload, name=AgentEventType.UPGRADE_REQUESTED):
    """A component is to be brought to a version."""

    component: str | None = None
    version: str | None = None
    reason: str = ""


class UpgradeCompleted(BusPayload, name=AgentEventType.UPGRADE_COMPLETED):
    """A component is at a version now, or the upgrade failed."""

    component: str | None = None
    version: str | None = None
    succeeded: bool = True


PREDEFINED: tuple[type[BusPayload], ...] = (
    ConversationCreated,
    ConversationUpdated,
    ContextRequested,
    SessionCreated,
    SessionUpdated,
    MessageReceived,
    MessageProcessed,
    LanguageNormalized,
    TranscriptionCompleted,
    FolderStructureDetermined,
    OrionStateChanged,
    UpgradeRequested,
    UpgradeCompleted,
)


def type_name(event_type: EventTypeName) -> str:
    """Return the name of a type, given as such, as a class, or as a constant's name (``"CONVERSATION_CREATED"``).

    Raises `InvalidName` for what names no type; the form of a name is not looked at.
    """
    if isinstance(event_type, str):
        return plain(AgentEventType.__members__.get(event_type, event_type))
    if isinstance(event_type, type) and issubclass(event_type, EventType) and event_type.event_type:
        return event_type.event_type
    raise InvalidName(
        f"{event_type!r} is not a type of event: give a name, or the class of its payload. Nothing was stored."
    )


def type_names(event_types: EventTypeName | Iterable[EventTypeName]) -> list[str]:
    """Return the names of one type or pattern, or of several, each once."""
    if isinstance(event_types, str) or not isinstance(event_types, Iterable):
        return [type_name(event_types)]
    names = list(dict.fromkeys(type_name(one) for one in event_types))
    if not names:
        raise InvalidName("give at least one type or pattern.")
    return names


def typed(event_type: EventTypeName | EventType, data: Data | None) -> tuple[str, Data]:
    """Return name and data of an event; an instance of an `EventType` is both in one."""
    if not isinstance(event_type, EventType):
        return type_name(event_type), {} if data is None else data
    if data is not None:
        raise InvalidPayload(f"{event_type!r} is the data already: give it alone, or its class with the data.")
    return type_name(type(event_type)), event_type
