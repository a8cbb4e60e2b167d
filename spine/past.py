"""What `Spine` can do with the past: the state at any moment, and the steps that led there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

from spine.connection import Server
from spine.log.reader import Reader
from spine.log.streams import Streams
from spine.state import Reducing, StateT
from spine.timetravel import PRESENT, Step, TimeTravel

Moment = int | datetime


class Past:
    """The part of the client that looks back; `Spine` has these methods."""

    if TYPE_CHECKING:
        server: Server
        reader: Reader
        streams: Streams

        async def _seq_at(self, moment: Moment) -> int: ...

    async def reduce(
        self, kind: type[Reducing[StateT]], *, key: str | None = None, at: Moment | None = None
    ) -> StateT:
        """Return the state of an agent or projection, folded from the log: now, or at a seq or time.

        It starts at the nearest stored state, so it costs what happened since. The state is the caller's own.

        Args:
            kind: the class of the agent or projection.
            key: whose state; left out for a global projection.
            at: a seq (with that event in it) or a time; now where left out.

        Raises `ReducerFailed`, or `ReplayGap` where events it needs were trimmed away.
        """
        travel = TimeTravel(self.server, self.reader, self.streams, kind)
        until = PRESENT if at is None else await self._seq_at(at)
        state: StateT = (await travel.cell(travel.checked(key), until)).state
        return state

    async def steps(
        self,
        kind: type[Reducing[StateT]],
        *,
        key: str | None = None,
        after: Moment = 0,
        until: Moment | None = None,
    ) -> AsyncGenerator[Step[StateT], None]:
        """Yield (event, state before, state after) for each event that an agent or projection folds, in seq order."""
        travel = TimeTravel(self.server, self.reader, self.streams, kind)
        wanted, start = travel.checked(key), await self._seq_at(after)
        end = PRESENT if until is None else await self._seq_at(until)
        async with aclosing(travel.steps(wanted, start, end)) as steps:
            async for step in steps:
                yield step
