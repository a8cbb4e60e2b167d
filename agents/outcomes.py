"""What became of the bookings, as the data tells it. For the provider and the verification: no other agent looks."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import TypeAdapter

from agents.dialogue import Act, Service, Value
from agents.events import Booking
from agents.reading import read_files


class Outcome(Value):
    """A booking that took place in the data."""

    booking: Booking  # with every parameter of the call, required or not
    booked: bool


class _Call(Value):
    method: str
    parameters: dict[str, str]


class _Frame(Value):
    service: str
    actions: tuple[Act, ...] = ()
    service_call: _Call | None = None


class _Turn(Value):
    frames: tuple[_Frame, ...] = ()


class _Record(Value):
    dialogue_id: str
    turns: tuple[_Turn, ...]


_RECORDS = TypeAdapter(list[_Record])


def load_outcomes(directory: Path, schema: dict[str, Service]) -> dict[str, tuple[Outcome, ...]]:
    """The bookings of every conversation by its id; conversations of a file without any outcome are left out."""
    return {
        name: tuple(_outcomes(name, record, schema))
        for conversations in read_files(directory, _RECORDS)
        if any(any(_calls(turn.frames)) for _, record in conversations for turn in record.turns)
        for name, record in conversations
    }


def _outcomes(conversation: str, record: _Record, schema: dict[str, Service]) -> Iterator[Outcome]:
    for index, turn in enumerate(record.turns):
        for frame, call in _calls(turn.frames):
            if call.method not in {intent.name for intent in schema[frame.service].bookings()}:
                continue
            booking = Booking(
                conversation=conversation,
                turn=index - 1,  # the call is recorded with the system's answer to the turn that agreed
                service=frame.service,
                intent=call.method,
                parameters=call.parameters,
            )
            failed = any(act.act == "NOTIFY_FAILURE" for act in frame.actions)
            yield Outcome(booking=booking, booked=not failed)


def _calls(frames: Iterable[_Frame]) -> Iterator[tuple[_Frame, _Call]]:
    return ((frame, frame.service_call) for frame in frames if frame.service_call)
