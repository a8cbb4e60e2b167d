"""Conversations in the format of the Schema-Guided Dialogue dataset, as an agent may see them.

The models have no place for `service_call` and `service_results`: what became of a booking is dropped while
reading, so no agent can look at it by mistake. `agents.outcomes` reads it, for the provider and the verification.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

Text = tuple[str, ...]


class Value(BaseModel):
    """Frozen, and blind to fields it does not name."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Act(Value):
    """One dialogue act, such as CONFIRM of a slot."""

    act: str
    slot: str = ""
    values: Text = ()  # as they were said: "tomorrow"
    canonical_values: Text = ()  # what they stand for, index by index: "2026-06-02"; none where they say it themselves


class Wish(Value):
    """What the user wants of a service so far, as tracked by the data."""

    active_intent: str = "NONE"
    slot_values: dict[str, Text] = {}  # slot -> the ways in which its one value was said


class Frame(Value):
    """What a turn says about one service."""

    service: str
    actions: tuple[Act, ...] = ()
    state: Wish | None = None  # in turns of the user only

    def acts(self, *kinds: str) -> Iterator[Act]:
        """The acts of these kinds, in the order of the data."""
        return (act for act in self.actions if act.act in kinds)


class Turn(Value):
    """One utterance."""

    speaker: Literal["USER", "SYSTEM"]
    utterance: str = ""
    frames: tuple[Frame, ...] = ()


class Dialogue(Value):
    """One conversation from its first turn to its last."""

    dialogue_id: str
    services: Text = ()
    turns: tuple[Turn, ...]

    @property
    def about(self) -> Text:
        """Every service that it names or speaks of."""
        spoken_of = (frame.service for turn in self.turns for frame in turn.frames)
        return tuple(dict.fromkeys((*self.services, *spoken_of)))


class Intent(Value):
    """Something that a service can be asked for."""

    name: str
    is_transactional: bool
    required_slots: Text = ()
    optional_slots: dict[str, str] = {}  # slot -> default


class Service(Value):
    """An entry of schema.json."""

    service_name: str
    intents: tuple[Intent, ...] = ()

    def bookings(self) -> Iterator[Intent]:
        """The intents that change something in the world: a call of theirs is a booking."""
        return (intent for intent in self.intents if intent.is_transactional)
