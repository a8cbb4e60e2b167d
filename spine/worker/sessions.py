"""Sessions as handlers find them: the newest that the worker can know of, read anew where they changed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spine.delivery.hand import Taken
from spine.keys import partition_of
from spine.log.drafts import Prepared
from spine.log.streams import SESSIONS
from spine.sessions import SessionState, load_raw_sessions, session_state

if TYPE_CHECKING:
    from spine.worker.agency import Agency

AT_HAND = 20_000

_Version = tuple[int, int]


class Sessions:
    """The sessions that one agency has at hand.

    What was loaded counts as long as neither the bell of its partition nor a commit of this agency told of a change. A
    session that lies in a partition which the agency does not hear is loaded for each event.
    """

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._loaded: dict[str, tuple[_Version, list[bytes]]] = {}

    async def prepare(self, taken: Iterable[Taken]) -> None:
        """Load the sessions of what was taken, in bulk."""
        wanted = {
            one.event.context.session_id
            for one in taken
            if one.event.context.session_id is not None and self._may_exist(one)
        }
        missing = [each for each in wanted if self._version(each) is not None and self._current(each) is None]
        if missing:
            await self._load(sorted(missing))

    async def of(self, taken: Taken) -> SessionState:
        """Return the session of an event that begins now; its values are the caller's own."""
        session_id = taken.event.context.session_id
        if session_id is None or not self._may_exist(taken):
            return NO_SESSION
        raw = self._current(session_id)
        if raw is None:
            raw = (await self._load([session_id]))[session_id]
        return session_state(raw)

    def stored(self, events: Sequence[Prepared]) -> None:
        """A commit stored `events`: sessions that they change are read anew, before the bell tells of it."""
        for prepared in events:
            if prepared.topic == SESSIONS:
                partition = self._agency.partitions.get(prepared.partition)
                if partition is not None:
                    partition.has_sessions = True
                    partition.session_changes += 1

    def _may_exist(self, taken: Taken) -> bool:
        """Tell whether there may be a session, as far as the bells of its partition tell."""
        if taken.event.context.session_id != taken.event.key:
            return True
        partition = self._agency.partitions.get(taken.partition)
        return partition is None or partition.unknown or partition.has_sessions

    def _version(self, session_id: str) -> _Version | None:
        """Return what changes where a session may have changed; ``None`` where the agency does not hear of that."""
        partition = self._agency.partitions.get(partition_of(session_id, self._agency.server.partitions))
        return None if partition is None else (partition.lease.generation, partition.session_changes)

    def _current(self, session_id: str) -> list[bytes] | None:
        version, raw = self._loaded.get(session_id, (None, None))
        return raw if version is not None and version == self._version(session_id) else None

    async def _load(self, session_ids: list[str]) -> dict[str, list[bytes]]:
        versions = [self._version(each) for each in session_ids]
        found = await load_raw_sessions(self._agency.server, session_ids)
        if len(self._loaded) > AT_HAND:
            self._loaded.clear()
        for session_id, version in zip(session_ids, versions, strict=True):
            if version is not None:
                self._loaded[session_id] = (version, found[session_id])
        return found


NO_SESSION = SessionState()
