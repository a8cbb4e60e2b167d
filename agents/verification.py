"""Verification: what the team did in a run, compared with what the data says must happen."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents import rules
from agents.dialogue import Dialogue, Service
from agents.events import About, Booking, Place
from agents.feeder import conversation_key
from agents.outcomes import Outcome, load_outcomes
from spine import Event, Spine

JUDGED = ("turn.user", "booking.*", "document.ready", "customer.*")


@dataclass
class Record:
    """What the log holds of one run, as far as it is judged."""

    spoken: dict[tuple[str, int], int] = field(default_factory=dict)  # conversation, turn -> seq
    requested: list[tuple[int, Booking]] = field(default_factory=list)  # with the seq
    told: dict[str, Counter[Place]] = field(default_factory=lambda: defaultdict(Counter))  # type -> what it is about

    def add(self, event: Event[dict[str, Any]]) -> None:
        """Take one event of the run into account."""
        match event.type:
            case "turn.user":
                self.spoken[event.payload["conversation"], event.payload["turn"]] = event.seq
            case "booking.requested":
                self.requested.append((event.seq, Booking.model_validate(event.payload)))
            case _:
                self.told[event.type][About.model_validate(event.payload).place] += 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Every list is empty when the team did what it should.

    Attributes:
        expected: how many bookings the data holds.
        requested: how many the team requested.
        early: requested before the turn that agreed, or never agreed at all.
        missing: agreed, but never requested, though the customer did not take it back.
        double: requested again.
        wrong: requested with another value for a required slot.
        contrary: confirmed where the data says it failed, or the other way round, or left without an outcome.
        undocumented: confirmed without a document, or with more than one.
        unanswered: the customer was not told, once, that it is confirmed, failed or cancelled.
        regretted: taken back and neither cancelled, once, nor failed; or cancelled without having been taken back.
    """

    expected: int
    requested: int
    early: Sequence[Place]
    missing: Sequence[Place]
    double: Sequence[Place]
    wrong: Sequence[Place]
    contrary: Sequence[Place]
    undocumented: Sequence[Place]
    unanswered: Sequence[Place]
    regretted: Sequence[Place]

    @property
    def faults(self) -> dict[str, Sequence[Place]]:
        """The lists that are not empty, by name."""
        names = ("early", "missing", "double", "wrong", "contrary", "undocumented", "unanswered", "regretted")
        return {name: places for name in names if (places := getattr(self, name))}


def expectations(directory: Path, dialogues: Iterable[Dialogue], schema: dict[str, Service]) -> list[Outcome]:
    """What must happen, by the outcomes in the data; by the rule, and confirmed, where a file has none."""
    recorded = load_outcomes(directory, schema)
    return [
        outcome
        for dialogue in dialogues
        for outcome in (
            recorded[dialogue.dialogue_id] if dialogue.dialogue_id in recorded else _by_rule(dialogue, schema)
        )
    ]


async def read_record(spine: Spine, run: int) -> Record:
    """Read the events of a run from the log."""
    record = Record()
    async for event in spine.replay(after=run, types=JUDGED):
        if event.key.startswith(conversation_key(run, "")):
            record.add(event)
    return record


def judge(record: Record, outcomes: Sequence[Outcome], schema: dict[str, Service]) -> Verdict:
    """Compare a run with what must happen."""
    expected = {outcome.booking.place: outcome for outcome in outcomes}
    requested = Counter(booking.place for _, booking in record.requested)
    confirmed, documents = record.told["booking.confirmed"], record.told["document.ready"]
    failed, cancelled = record.told["booking.failed"], record.told["booking.cancelled"]
    taken_back, answered = record.told["customer.cancelled"], record.told["customer.answered"]
    ended = confirmed + failed + cancelled
    return Verdict(
        expected=len(expected),
        requested=len(record.requested),
        early=[b.place for seq, b in record.requested if b.place not in expected or not _heard(record, seq, b)],
        missing=[at for at in expected if at not in requested and at not in taken_back],
        double=[at for at, times in requested.items() if times > 1],
        wrong=[
            booking.place
            for _, booking in record.requested
            if (outcome := expected.get(booking.place)) and not _same(booking, outcome.booking, schema)
        ],
        contrary=[
            at
            for at in requested
            if at in expected and (at in confirmed, at in failed) != (expected[at].booked, not expected[at].booked)
        ],
        undocumented=[at for at in {*confirmed, *documents} if documents[at] != confirmed[at]],
        unanswered=[at for at in {*ended, *answered} if answered[at] != ended[at]],
        regretted=[at for at in {*taken_back, *cancelled} if cancelled[at] != (at in taken_back and at not in failed)],
    )


def _by_rule(dialogue: Dialogue, schema: dict[str, Service]) -> list[Outcome]:
    return [Outcome(booking=agreed.booking, booked=True) for agreed in rules.requirements(dialogue, schema)]


def _heard(record: Record, seq: int, booking: Booking) -> bool:
    """Tell whether the turn that agreed was in the log before the request."""
    agreed = record.spoken.get((booking.conversation, booking.turn))
    return agreed is not None and agreed < seq


def _same(done: Booking, wanted: Booking, schema: dict[str, Service]) -> bool:
    required = next(i.required_slots for i in schema[wanted.service].intents if i.name == wanted.intent)
    return all(done.parameters.get(slot) == wanted.parameters.get(slot) for slot in required)
