"""How far a run has come, folded from the log while it happens."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agents.events import About, Place
from agents.feeder import conversation_key
from spine import Event


@dataclass
class Progress:
    """The figures of one run.

    Attributes:
        run: which run.
        conversations: how many are played.
        opened: how many have begun.
        gathered: how many inquiry has handled to the end.
        events: all events of the run, those of the agents as well.
        requested: bookings requested.
        confirmed: of these, confirmed.
        failed: of these, failed.
        cancelled: bookings that the customer took back and the team cancelled.
        undone: of these, cancelled after they had been made.
        routed: agent → how many requirements the concierge gave it.
        answered: how often a customer was told what came of a booking.
        latencies_s: for each of these, from the turn that agreed to the customer's answer, by the server's clock.
    """

    run: int
    conversations: int
    opened: int = 0
    gathered: int = 0
    events: int = 0
    requested: int = 0
    confirmed: int = 0
    failed: int = 0
    cancelled: int = 0
    undone: int = 0
    routed: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    latencies_s: list[float] = field(default_factory=list)
    _agreed: int = 0
    _taken_back: set[Place] = field(default_factory=set)
    _made: set[Place] = field(default_factory=set)
    _over: set[Place] = field(default_factory=set)  # nothing is left of these
    _spoken: dict[tuple[str, int], datetime] = field(default_factory=dict)
    _first: datetime | None = None
    _last: datetime | None = None

    def see(self, event: Event[dict[str, Any]]) -> None:
        """Take an event into account; those of other runs are not ours."""
        if not event.key.startswith(conversation_key(self.run, "")):
            return
        self.events += 1
        self._first, self._last = self._first or event.ts, event.ts
        match event.type:
            case "conversation.opened":
                self.opened += 1
            case "turn.user":
                self._spoken[event.payload["conversation"], event.payload["turn"]] = event.ts
            case "requirements.gathered":
                self.gathered += 1
                self._agreed += event.payload["bookings"]
            case "requirement.routed" if event.source == "concierge":
                self.routed[event.topic.removeprefix("@")] += 1
            case "booking.requested":
                self.requested += 1
            case "booking.confirmed":
                self.confirmed += 1
                self._made.add(_place(event))
            case "booking.failed":
                self.failed += 1
                self._over.add(_place(event))
            case "customer.cancelled":
                self._taken_back.add(_place(event))
            case "booking.cancelled":
                self.cancelled += 1
                self.undone += _place(event) in self._made
                self._over.add(_place(event))
            case "customer.answered":
                self.answered += 1
                agreed = self._spoken.get((event.payload["conversation"], event.payload["turn"]))
                if agreed:
                    self.latencies_s.append((event.ts - agreed).total_seconds())

    @property
    def done(self) -> bool:
        """Whether every turn has been handled, and the customer knows the end of every booking that came of them."""
        told = self.answered >= self._agreed + self.undone
        return self.gathered >= self.conversations and told and self._taken_back <= self._over

    @property
    def seconds(self) -> float:
        """From the first event to the newest."""
        return (self._last - self._first).total_seconds() if self._first and self._last else 0.0

    @property
    def events_per_second(self) -> float:
        """Events of the run by its length; 0 while that is not known."""
        return self.events / self.seconds if self.seconds else 0.0


def _place(event: Event[dict[str, Any]]) -> Place:
    return About.model_validate(event.payload).place


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that `percent` of all do not exceed; None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
