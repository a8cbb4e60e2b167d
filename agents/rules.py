"""When a booking is agreed, decided from the turns alone.

A booking is agreed when the user's frame of a transactional intent has an AFFIRM right after a turn of the system
whose frame of that service has CONFIRM or NOTIFY_FAILURE acts, with all required slots in the user's state. (A booking
that failed can be offered again with other values: that is the NOTIFY_FAILURE.) Its parameters are what the CONFIRM
and OFFER acts of the system said the user's values stand for. How certain it is, is the share of the required ones that
the turn just before the yes read back; the others were understood earlier.

The functions fold one turn into what is known, and return a new value: they are reducers.
"""

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from agents.dialogue import Act, Dialogue, Frame, Service, Wish
from agents.events import Bookable, Booking, Opened, Requirement, TurnTaken


class Said(BaseModel):
    """A value that the system put to the user."""

    model_config = ConfigDict(frozen=True)

    service: str
    slot: str
    value: str  # "tomorrow"
    canonical: str  # "2026-06-02"


class Gathering(BaseModel):
    """What is known of one conversation."""

    model_config = ConfigDict(frozen=True)

    bookable: dict[str, dict[str, Bookable]] = {}
    said: tuple[Said, ...] = ()  # the newest last
    proposed: tuple[str, ...] = ()  # services for which a yes, now, is a booking
    read_back: tuple[Said, ...] = ()  # what that yes would answer
    agreed: tuple[Requirement, ...] = ()


def opened(known: Gathering, event: Opened) -> Gathering:
    """A conversation begins."""
    return known.model_copy(update={"bookable": event.bookable})


def system_spoke(known: Gathering, turn: TurnTaken) -> Gathering:
    """The system offered values, asked for a confirmation, or neither."""
    heard = put_to_the_user(turn)
    again = {(said.service, said.slot, said.value) for said in heard}
    kept = (said for said in known.said if (said.service, said.slot, said.value) not in again)
    proposed = tuple(frame.service for frame in turn.frames if any(frame.acts("CONFIRM", "NOTIFY_FAILURE")))
    return known.model_copy(update={"said": (*kept, *heard), "proposed": proposed, "read_back": heard})


def user_spoke(known: Gathering, turn: TurnTaken) -> Gathering:
    """The user said something; perhaps yes, to what the system proposed just before."""
    agreed = [requirement for frame in turn.frames if (requirement := _agreed(known, turn, frame))]
    return known.model_copy(update={"agreed": (*known.agreed, *agreed), "proposed": ()})


def put_to_the_user(turn: TurnTaken) -> tuple[Said, ...]:
    """What the system offered or asked to confirm in a turn."""
    acts = ((frame, act) for frame in turn.frames for act in frame.acts("CONFIRM", "OFFER"))
    return tuple(said for frame, act in acts for said in _values(frame, act))


def requirements(dialogue: Dialogue, schema: dict[str, Service]) -> tuple[Requirement, ...]:
    """What a whole conversation agrees to, in order."""
    known = opened(Gathering(), opening(dialogue, schema))
    for taken, speaker in turns(dialogue):
        known = user_spoke(known, taken) if speaker == "USER" else system_spoke(known, taken)
    return known.agreed


def opening(dialogue: Dialogue, schema: dict[str, Service]) -> Opened:
    """The first event of a conversation."""
    return Opened(
        conversation=dialogue.dialogue_id,
        bookable={
            name: {
                intent.name: Bookable(required=intent.required_slots, optional=tuple(sorted(intent.optional_slots)))
                for intent in schema[name].bookings()
            }
            for name in dialogue.about
        },
    )


def turns(dialogue: Dialogue) -> Iterable[tuple[TurnTaken, str]]:
    """The turns of a conversation as events, each with its speaker."""
    for index, turn in enumerate(dialogue.turns):
        taken = TurnTaken(conversation=dialogue.dialogue_id, turn=index, utterance=turn.utterance, frames=turn.frames)
        yield taken, turn.speaker


def _values(frame: Frame, act: Act) -> Iterable[Said]:
    for value, canonical in zip(act.values, act.canonical_values or act.values, strict=False):
        yield Said(service=frame.service, slot=act.slot, value=value, canonical=canonical)


def _agreed(known: Gathering, turn: TurnTaken, frame: Frame) -> Requirement | None:
    wish = frame.state
    if wish is None or frame.service not in known.proposed or not any(frame.acts("AFFIRM")):
        return None
    needs = known.bookable.get(frame.service, {}).get(wish.active_intent)
    if needs is None or not all(wish.slot_values.get(slot) for slot in needs.required):
        return None
    booking = Booking(
        conversation=turn.conversation,
        turn=turn.turn,
        service=frame.service,
        intent=wish.active_intent,
        parameters=_parameters(known, frame.service, wish, needs),
    )
    return Requirement(booking=booking, confidence=_confidence(known, booking, needs))


def _confidence(known: Gathering, booking: Booking, needs: Bookable) -> float:
    """The share of what is required that the user's yes answered word for word."""
    heard = {(said.slot, said.canonical) for said in known.read_back if said.service == booking.service}
    certain = [(slot, booking.parameters[slot]) in heard for slot in needs.required]
    return round(sum(certain) / len(certain), 2) if certain else 1.0


def _parameters(known: Gathering, service: str, wish: Wish, needs: Bookable) -> dict[str, str]:
    """What the booking is for: the required slots, and the optional ones that the system has put to the user."""
    chosen = {slot: _canonical(known, service, slot, wish) for slot in (*needs.required, *needs.optional)}
    found = {slot: value for slot, value in chosen.items() if value is not None}
    return {slot: _unconfirmed(known, service, slot, wish) for slot in needs.required if slot not in found} | found


def _canonical(known: Gathering, service: str, slot: str, wish: Wish) -> str | None:
    """What the user's value of this slot stands for, by the newest act that said it; None if none did."""
    ways = wish.slot_values.get(slot, ())
    return next((said.canonical for said in _newest(known, service, slot) if said.value in ways), None)


def _unconfirmed(known: Gathering, service: str, slot: str, wish: Wish) -> str:
    """A required value that the system never said in the user's words: its own last word, else the user's."""
    return next((said.canonical for said in _newest(known, service, slot)), wish.slot_values[slot][0])


def _newest(known: Gathering, service: str, slot: str) -> Iterator[Said]:
    return (said for said in reversed(known.said) if said.service == service and said.slot == slot)
