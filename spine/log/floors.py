"""Where the log begins: what was trimmed away, and who may not read as if it were still there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spine.connection import Server
from spine.errors import ReplayGap
from spine.events import Event
from spine.keys import partition_of
from spine.log.reader import Selection


async def floors(server: Server) -> dict[int, int]:
    """Return for each partition that was trimmed the seq up to which its events are gone."""
    return {int(partition): int(seq) for partition, seq in (await server.hash(server.keys.floors)).items()}


def seqs_gone(raw: bytes | None) -> set[int]:
    """Return the last seq that was trimmed away of each stream of a key, of what `Keys.gone` says of it."""
    return {int(entry.partition(":")[0]) for entry in (raw or b"").decode().split(",") if entry}


def last_gone(raw: bytes | None) -> int:
    """Return the last of these; 0 for none."""
    return max(seqs_gone(raw), default=0)


def gap(what: str, after: int, gone: int) -> ReplayGap:
    """Return the error of one who reads after a seq what is gone up to another."""
    return ReplayGap(
        f"{what} up to {gone} were trimmed away, but wanted from {after} on. Read after={gone} "
        f"(--after {gone}) for what is left; a state is had from stored ones with spine.reduce."
    )


class Gaps:
    """Says of one reading of the log whether it misses what was trimmed away.

    A correlation is known to miss something only where it has its name from a key, or begins with an effect of an event
    that is gone.

    Args:
        server: the way to the server.
        selection: what is read.
    """

    def __init__(self, server: Server, selection: Selection) -> None:
        self._server = server
        self._word = selection.key or selection.correlation
        self._by_correlation = selection.key is None and selection.correlation is not None

    async def check(self, after: int, found: Iterable[Event[Any]] = ()) -> None:
        """Raise `ReplayGap` when events after a seq, and before the first of those `found`, are gone."""
        if self._word is not None:
            await self._check_word(self._word, after, found)
            return
        floor = max((await floors(self._server)).values(), default=0)
        if floor > after:
            raise gap("the events", after, floor)

    async def _check_word(self, word: str, after: int, found: Iterable[Event[Any]]) -> None:
        place = self._server.keys.gone(partition_of(word, self._server.partitions))
        gone = last_gone(await self._server.command("HGET", place, word))
        if gone > after:
            raise gap(f"the events of {word!r}", after, gone)
        first = next(iter(found), None) if self._by_correlation else None
        cause = first.context.causation if first is not None else None
        if cause is not None and after < cause:
            floor = max((await floors(self._server)).values(), default=0)
            if cause <= floor:
                raise gap(f"events of correlation {word!r}", after, floor)
