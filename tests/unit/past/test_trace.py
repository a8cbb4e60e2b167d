"""The tree of causes, and its diagram."""

from __future__ import annotations

from typing import Any

from spine.cli.diagrams import mermaid, sequence
from spine.events import Context, Event, from_ms
from spine.past.trace import Handled, build


def event(seq: int, cause: int | None, source: str = "a", topic: str = "x.y") -> Event[Any]:
    context = Context(correlation="c", causation=cause)
    kind = topic if not topic.startswith("@") else "x.y"
    return Event(
        seq=seq,
        id=str(seq),
        type=kind,
        topic=topic,
        key="k",
        source=source,
        payload={},
        context=context,
        ts=from_ms(seq),
    )


def test_events_hang_below_what_caused_them() -> None:
    trace = build("c", [event(5, None), event(7, 5), event(8, 5), event(9, 7), event(10, 3)])
    assert [(node.event.seq, node.depth) for node in trace.walk()] == [(5, 0), (7, 1), (9, 2), (8, 1), (10, 0)]
    assert [node.event.seq for node in trace.nodes] == [5, 7, 8, 9, 10]
    assert trace.duration_ms == 5


def test_a_chain_of_any_length_is_walked() -> None:
    trace = build("c", [event(1, None), *(event(n, n - 1) for n in range(2, 5000))])
    assert [node.depth for node in trace.walk()] == list(range(4999))


def test_arrows_go_to_whoever_acted() -> None:
    trace = build(
        "c",
        [
            event(1, None, "cli"),
            event(2, 1, "inquiry"),
            event(3, 2, "inquiry", "@clerk"),
            event(4, 1, "inquiry", "spine.replies"),
        ],
    )
    trace.nodes[1].handled.append(
        Handled(agent="book keeper;\n", worker="w", outcome="dead", waited_ms=1, worked_ms=1.0, attempts=3)
    )
    lines = mermaid(trace).splitlines()
    assert lines == [
        "sequenceDiagram",
        "    participant p0 as cli",
        "    participant p1 as inquiry",
        "    participant p2 as book_keeper__",
        "    participant p3 as clerk",
        "    p0->>p1: 1 x.y (+0 ms)",
        "    p1->>p2: 2 x.y (+1 ms, waited 1 ms, worked 1 ms, attempt 3, dead)",
        "    p1->>p1: 2 x.y (+1 ms)",
        "    p1->>p3: 3 x.y (+2 ms)",
        "    p1-->>p0: 4 spine.replies (+3 ms)",
    ]


def test_nothing_is_a_trace_too() -> None:
    trace = build("c", [])
    assert (trace.duration_ms, list(trace.walk()), mermaid(trace)) == (0, [], "sequenceDiagram\n")


def test_a_diagram_of_plain_characters_has_a_column_for_each_participant() -> None:
    trace = build(
        "c",
        [event(1, None, "cli"), event(2, 1, "inquiry"), event(3, 2, "inquiry", "spine.replies"), event(4, 9, "cli")],
    )
    assert sequence(trace).splitlines() == [
        "   cli    inquiry    log",
        "    ├────────▶        │      1 x.y (+0 ms)",
        "    │        ↻        │      2 x.y (+1 ms)",
        "    │        ↻        │      3 spine.replies (+2 ms)",
        "    ├─────────────────▶      4 x.y (+3 ms)",
    ]
    assert sequence(build("c", [])) == ""
