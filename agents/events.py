"""What flows between the agents: the payload of every event, in the order of a conversation.

| type | payload | published by |
|---|---|---|
| `conversation.opened` | `Opened` | the feeder |
| `turn.user`, `turn.system` | `TurnTaken` | the feeder |
| `conversation.closed` | `Closed` | the feeder |
| `requirement.complete` | `Requirement` | inquiry; from here on the key is that of the booking |
| `requirement.routed`, in the inbox of one agent | `Requirement` | concierge, review, desk |
| `requirements.gathered` | `Gathered` | inquiry, once the conversation is closed |
| `booking.requested`, then `booking.confirmed` or `booking.failed` | `Booking` | scheduling |
| `calendar.find_slot`, a request | `Search`; the reply is a `Slot` | scheduling; calendar |
| `provider.book`, a request | `Placed`; the reply is an `Answer` | scheduling; provider |
| `provider.cancel`, a request | `Booking`; the reply is an `Answer` | scheduling; provider |
| `customer.cancelled`, urgent | `Cancellation` | the feeder |
| `booking.cancelled` | `Booking` | scheduling |
| `document.ready` | `Notice` | document |
| `customer.answered` | `Notice` | concierge |
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from agents.dialogue import Frame

Place = tuple[str, int, str, str]  # conversation, turn, service, intent


class Payload(BaseModel):
    """A fact does not change."""

    model_config = ConfigDict(frozen=True)


class Bookable(Payload):
    """What a booking of one intent needs to be complete, and what it may say besides."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


class Opened(Payload):
    """A conversation begins; it brings with it what can be booked, so that no agent reads a schema."""

    conversation: str
    bookable: dict[str, dict[str, Bookable]]  # service -> intent -> what it needs


class TurnTaken(Payload):
    """Somebody spoke."""

    conversation: str
    turn: int  # index in the conversation, both speakers counted
    utterance: str
    frames: tuple[Frame, ...]


class Closed(Payload):
    """Nothing more will be said."""

    conversation: str
    turns: int


class Gathered(Payload):
    """Inquiry has handled the conversation to its end."""

    conversation: str
    bookings: int  # how many requirements were completed


class About(Payload):
    """What is said about one booking, and which one that is."""

    conversation: str
    turn: int  # of the user turn that agreed
    service: str
    intent: str

    @classmethod
    def about(cls, other: "About", **details: Any) -> Self:
        """One more thing about the same booking."""
        return cls(
            conversation=other.conversation, turn=other.turn, service=other.service, intent=other.intent, **details
        )

    @property
    def place(self) -> Place:
        """What tells a booking of a run from every other."""
        return self.conversation, self.turn, self.service, self.intent

    def key(self, conversation: str) -> str:
        """The key of the booking, given that of its conversation: a case of its own, that waits for no other."""
        return f"{conversation}/{self.turn}/{self.service}"


class Booking(About):
    """A booking that the user agreed to."""

    parameters: dict[str, str]  # slot -> canonical value

    def __str__(self) -> str:
        details = ", ".join(f"{slot.replace('_', ' ')} {value}" for slot, value in self.parameters.items())
        return f"{self.intent} with {self.service} ({details})"


class Requirement(Payload):
    """A booking that is agreed and complete."""

    booking: Booking
    confidence: float  # 0 to 1: how much of what it requires was read back to the user before the yes


class Search(Payload):
    """How well would this booking fit into that calendar?"""

    calendar: str
    booking: Booking


class Slot(Payload):
    """What a calendar has to offer."""

    calendar: str
    fit: float  # 0 to 1


class Placed(Booking):
    """A booking, and the calendar to put it in."""

    calendar: str = ""  # empty where the provider chooses


class Answer(Payload):
    """What the outside booking service did."""

    booked: bool


class Cancellation(About):
    """The customer takes a booking back."""


class Notice(About):
    """A text about one booking."""

    text: str
