"""A trace drawn as a sequence diagram: for a terminal, or for mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from spine.log.streams import REPLIES
from spine.past.trace import Handled, Node, Trace

LOG = "log"


class Arrow(msgspec.Struct, frozen=True):
    """One line of a sequence diagram.

    Attributes:
        source: who published the event.
        receiver: who handled it, published something because of it, is to have it, or the log.
        node: the event.
        handled: what the receiver did with it, where it is done.
    """

    source: str
    receiver: str
    node: Node
    handled: Handled | None

    @property
    def is_answer(self) -> bool:
        """Tell whether it goes back to who asked."""
        return self.node.event.topic == REPLIES

    def says(self, type: str) -> str:
        """Return what stands beside it."""
        return f"{self.node.event.seq} {type} (+{self.node.offset_ms} ms{_told(self.handled)})"


def arrows(trace: Trace) -> list[Arrow]:
    """Return what happened as arrows between participants, in the order of the numbers.

    An arrow goes from the source of an event to each that handled it or published something because of it, to the
    owner of the inbox it went to, to the asker when it is an answer, or to the log where nobody acted on it yet.
    """
    sources = {node.event.seq: node.event.source for node in trace.nodes}
    found = []
    for node in trace.nodes:
        handled = {one.agent: one for one in node.handled if one.outcome != "folded"}
        for receiver in _receivers(node, handled, sources):
            found.append(Arrow(node.event.source, receiver, node, handled.get(receiver)))
    return found


def participants(found: Iterable[Arrow]) -> list[str]:
    """Return who is at the ends of arrows, in the order of their appearance."""
    return list(dict.fromkeys(name for arrow in found for name in (arrow.source, arrow.receiver)))


def mermaid(trace: Trace) -> str:
    """Return `trace` as a mermaid sequence diagram; see `arrows`."""
    found = arrows(trace)
    names = {name: f"p{place}" for place, name in enumerate(participants(found))}
    lines = ["sequenceDiagram", *(f"    participant {short} as {_safe(name)}" for name, short in names.items())]
    for arrow in found:
        line = "-)" if arrow.receiver == LOG else "-->>" if arrow.is_answer else "->>"
        lines.append(
            f"    {names[arrow.source]}{line}{names[arrow.receiver]}: {arrow.says(_safe(arrow.node.event.type))}"
        )
    return "\n".join(lines) + "\n"


def sequence(trace: Trace) -> str:
    """Return `trace` as a sequence diagram of plain characters, a column for each participant; see `arrows`."""
    found = arrows(trace)
    names = participants(found)
    width = max((len(name) + 2 for name in names), default=0)
    places = {name: place * width + width // 2 for place, name in enumerate(names)}
    lines = ["".join(name.center(width) for name in names).rstrip()]
    for arrow in found:
        begin, end = places[arrow.source], places[arrow.receiver]
        row = [" "] * (width * len(names))
        for place in places.values():
            row[place] = "│"
        for place in range(min(begin, end) + 1, max(begin, end)):
            row[place] = "╌" if arrow.is_answer else "─"
        if begin == end:
            row[begin] = "↻"
        else:
            row[begin], row[end] = ("├", "▶") if begin < end else ("┤", "◀")
        lines.append(f"{''.join(row)}  {arrow.says(arrow.node.event.type)}")
    return "\n".join(lines) + "\n" if found else ""


def _told(handled: Handled | None) -> str:
    if handled is None:
        return ""
    tries = f", attempt {handled.attempts}" if handled.attempts > 1 else ""
    outcome = "" if handled.outcome == "done" else f", {handled.outcome}"
    return f", waited {handled.waited_ms} ms, worked {handled.worked_ms:.3g} ms{tries}{outcome}"


def _receivers(node: Node, handled: Mapping[str, Handled], sources: Mapping[int, str]) -> list[str]:
    event = node.event
    found: dict[str, Handled | None] = dict.fromkeys(handled)
    found |= dict.fromkeys(child.event.source for child in node.children)
    if event.topic.startswith("@"):
        found.setdefault(event.topic.removeprefix("@"), None)
    asker = sources.get(event.context.causation or 0)
    if event.topic == REPLIES and asker is not None:
        found.setdefault(asker, None)
    return list(found) or [LOG]


def _safe(name: str) -> str:
    """Names that are not of ours may hold what mermaid takes for syntax."""
    return re.sub(r"[^\w.@-]", "_", name)
