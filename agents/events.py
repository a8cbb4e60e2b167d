"""What flows between the agents: the payload of every event, in the order of a conversation.

| type | payload | published by |
|---|---|---|
| `conversation.opened` | `Opened` | the feeder |
| `turn.user`, `turn.system` | `TurnTaken` | the feeder |
| `conversation.closed` | `Closed` | the feeder |
| `requirement.complete` | `Booking` | inquiry |
| `requirements.gathered` | `Gathered` | inquiry, once the conversation is closed |
| `booking.requested`, then `booking.confirmed` or `booking.failed` | `Booking` | scheduling |
| `provider.book`, a request | `Booking`; the reply is an `Answer` | scheduling; provider |
| `document.ready` | `Notice` | document |
| `customer.answered` | `Notice` | concierge |
"""

from pydantic import BaseModel, ConfigDict

from agents.dialogue import Frame


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


class Booking(Payload):
    """A booking that the user agreed to."""

    conversation: str
    turn: int  # of the user turn that agreed
    service: str
    intent: str
    parameters: dict[str, str]  # slot -> canonical value

    def __str__(self) -> str:
        details = ", ".join(f"{slot.replace('_', ' ')} {value}" for slot, value in self.parameters.items())
        return f"{self.intent} with {self.service} ({details})"


class Answer(Payload):
    """What the outside booking service said."""

    booked: bool


class Notice(Payload):
    """A text about one booking."""

    conversation: str
    turn: int
    service: str
    intent: str
    text: str

    @classmethod
    def about(cls, booking: "Booking | Notice", text: str) -> "Notice":
        """A text about this booking."""
        return cls(
            conversation=booking.conversation,
            turn=booking.turn,
            service=booking.service,
            intent=booking.intent,
            text=text,
        )
