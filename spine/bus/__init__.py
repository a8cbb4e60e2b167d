"""The message bus of an agency platform, over the spine: subscribe, emit, emit and wait, respond, history."""

from spine.bus.bus import AgentEventBus, BusSubscription
from spine.bus.messages import EventData, ResponseData
from spine.bus.metrics import LoggedError, Metrics, ResponseTimes
from spine.bus.subscribers import SubscriberInfo
from spine.bus.types import (
    AgentEventType,
    BusPayload,
    ContextRequested,
    ConversationCreated,
    ConversationUpdated,
    FolderStructureDetermined,
    LanguageNormalized,
    MessageProcessed,
    MessageReceived,
    OrionStateChanged,
    SessionCreated,
    SessionUpdated,
    TranscriptionCompleted,
    UpgradeCompleted,
    UpgradeRequested,
)

__all__ = [
    "AgentEventBus",
    "AgentEventType",
    "BusPayload",
    "BusSubscription",
    "ContextRequested",
    "ConversationCreated",
    "ConversationUpdated",
    "EventData",
    "FolderStructureDetermined",
    "LanguageNormalized",
    "LoggedError",
    "MessageProcessed",
    "MessageReceived",
    "Metrics",
    "OrionStateChanged",
    "ResponseData",
    "ResponseTimes",
    "SessionCreated",
    "SessionUpdated",
    "SubscriberInfo",
    "TranscriptionCompleted",
    "UpgradeCompleted",
    "UpgradeRequested",
]
