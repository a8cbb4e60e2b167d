"""A trace of thousands of events stays readable: many that went alike are one line."""

from __future__ import annotations

from datetime import UTC, datetime

from spine.cli.trace import SHOWN_ALIKE, many_alike
from spine.events import Context, Event
from spine.past.trace import Handled, Node


def node(seq: int, *outcomes: str, attempts: int = 1, children: int = 0) -> Node:
    event = Event(
        seq=seq,
        id=f"a-{seq}",
        type="leaf",
        topic="leaf",
        key="k",
        source="s",
        ts=datetime(2026, 11, 27, tzinfo=UTC),
        payload={},
        context=Context(correlation="c"),
    )
    handled = [
        Handled(agent=f"a{n}", worker="w", outcome=outcome, waited_ms=0, worked_ms=0.0, attempts=attempts)
        for n, outcome in enumerate(outcomes)
    ]
    return Node(
        event=event,
        depth=1,
        offset_ms=0,
        children=[node(seq * 1_000 + n) for n in range(children)],
        handled=handled,
    )


def hidden(nodes: list[Node]) -> list[list[int]]:
    return [[one.event.seq for one in alike] for alike in many_alike(nodes)]


def test_of_many_alike_the_first_ones_are_shown() -> None:
    many = [node(seq, "done") for seq in range(100)]
    assert hidden(many) == [list(range(SHOWN_ALIKE, 100))]
    assert hidden(many[: 2 * SHOWN_ALIKE]) == []


def test_what_went_otherwise_is_never_hidden() -> None:
    odd = [node(200, "dead"), node(201, "done", attempts=2), node(202, "done", children=1), node(203)]
    nodes = [*(node(seq, "done") for seq in range(50)), *odd, *(node(seq, "done") for seq in range(50, 100))]
    assert hidden(nodes) == [list(range(SHOWN_ALIKE, 100))]
