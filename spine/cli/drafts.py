"""The options that say what an event is, shared by ``publish`` and ``request``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spine.events import Context, Priority


class Lane(StrEnum):
    """The lanes of an event, as words."""

    URGENT = "urgent"
    NORMAL = "normal"
    BACKGROUND = "background"


EventKey = Annotated[str | None, typer.Option("--key", "-k", help="Unit of order and of state.")]
To = Annotated[str | None, typer.Option("--to", metavar="AGENT", help="Only into the inbox of this agent.")]
PriorityOption = Annotated[Lane | None, typer.Option("--priority", help="The lane.")]
Session = Annotated[str | None, typer.Option("--session", help="Session id of the context.")]
EventCorrelation = Annotated[str | None, typer.Option("--correlation", help="Correlation id of the context.")]


def context_of(session: str | None, correlation: str | None, deadline_s: float | None = None) -> Context | None:
    """Return the context that the options make up; ``None`` where none is given."""
    from spine.events import Context

    if session is None and correlation is None and deadline_s is None:
        return None
    deadline = None if deadline_s is None else datetime.now(UTC) + timedelta(seconds=deadline_s)
    return Context(correlation=correlation or "", session_id=session, deadline=deadline)


def priority_of(lane: Lane | None) -> Priority | None:
    """Return the priority that a lane's word stands for."""
    from spine.events import Priority

    return None if lane is None else Priority[lane.name]


def json_of(payload: str | None) -> bytes:
    """Return the bytes of a payload as the shell handed it over; an empty object where there is none."""
    return (payload or "{}").encode(errors="surrogateescape")
