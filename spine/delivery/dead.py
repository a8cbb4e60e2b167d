"""The dead letters: looking at them, bringing them back, and throwing them away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable
from datetime import datetime
from typing import TypedDict

import msgspec

from spine.connection import Argument, Server
from spine.delivery.holds import FOREVER, Hold, Listed, decode_hold, encode_hold
from spine.delivery.records import DeadLetter, decode_dead
from spine.events import to_ms
from spine.log.streams import Streams
from spine.names import check_agent_name, check_pattern, matcher

PAGE = 500
Place = tuple[str, int, str]
"""An agent, a partition, and what order is kept by there."""


class Wanted(TypedDict, total=False):
    """The fields of `DeadFilter`, as keywords."""

    seq: int | Iterable[int] | None
    types: str | Iterable[str]
    key: str | None
    correlation: str | None
    error: str | None
    since: datetime | None
    until: datetime | None


class DeadFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant; what is left out restricts nothing.

    Attributes:
        agent: of this agent.
        seq: of this event, or of one of these.
        types: of events of these types or patterns.
        key: of events of this key.
        correlation: of events of this correlation.
        error: whose error (its class or message) contains this.
        since: given up at this time or later.
        until: given up at this time or earlier.
    """

    agent: str | None = None
    seq: tuple[int, ...] | None = None
    types: tuple[str, ...] = ()
    key: str | None = None
    correlation: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, agent: str | None, wanted: Wanted) -> DeadFilter:
        """Return the filter that keywords describe. Raises `InvalidInput`."""
        types, seq = wanted.get("types", ()), wanted.get("seq")
        return cls(
            agent=None if agent is None else check_agent_name(agent),
            seq=None if seq is None else (seq,) if isinstance(seq, int) else tuple(sorted(set(seq))),
            types=tuple(check_pattern(pattern) for pattern in ((types,) if isinstance(types, str) else types)),
            key=wanted.get("key"),
            correlation=wanted.get("correlation"),
            error=wanted.get("error"),
            since=wanted.get("since"),
            until=wanted.get("until"),
        )

    def accepts(self) -> Callable[[DeadLetter], bool]:
        """Return the test that a letter has to pass."""
        matches = matcher(self.types)
        since = None if self.since is None else to_ms(self.since)
        until = None if self.until is None else to_ms(self.until)

        def test(letter: DeadLetter) -> bool:
            return (
                (self.seq is None or letter.seq in self.seq)
                and (not self.types or matches(letter.type))
                and (self.key is None or letter.key == self.key)
                and (self.correlation is None or letter.correlation == self.correlation)
                and (self.error is None or self.error in f"{letter.error_type}: {letter.error}")
                and (since is None or letter.ts_ms >= since)
                and (until is None or letter.ts_ms <= until)
            )

        return test


class DeadLetters:
    """The dead letters of one namespace."""

    def __init__(self, server: Server, streams: Streams) -> None:
        self._server = server
        self._streams = streams

    async def find(self, wanted: DeadFilter) -> list[DeadLetter]:
        """Return the letters that `wanted` names, by seq."""
        accepts = wanted.accepts()
        found: list[DeadLetter] = []
        for agent in await self._agents(wanted.agent):
            if wanted.seq is None:
                found += filter(accepts, await self._all(agent))
            for seq in wanted.seq or ():
                found += filter(accepts, await self._of_seq(agent, seq))
        return sorted(found, key=lambda letter: (letter.seq, letter.agent, letter.field))

    async def redrive(self, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
        """Have the events of `letters` handled again, those of one key in seq order; return what is on its way.

        With ``on_dead="park"`` an event takes its old place, else it runs next for its key; `Handling.redriven` is
        true. A key stays parked for as long as a dead letter is left that parked it. Left out is what nobody can
        handle: entries that are no events, events that were trimmed away.
        """
        groups: dict[Place, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            if not letter.entry_id:
                groups[place_of(letter)].append(letter)
        chosen = {(letter.agent, letter.field) for group in groups.values() for letter in group}
        holds = await self._holds(groups)
        parked = await self._parked({agent for agent, _, _ in groups}, but=chosen)
        came: list[DeadLetter] = []
        for place, group in groups.items():
            by_seq = sorted(group, key=lambda letter: letter.seq)
            came += await self._release(place, by_seq, holds[place], parked=place in parked)
        return came

    async def discard(self, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
        """Delete `letters` for good; a key that no dead letter parks any more goes on. Return what was deleted."""
        gone: list[DeadLetter] = []
        for letter in letters:
            if await self._server.command("HDEL", self._server.keys.dead(letter.agent), letter.field):
                gone.append(letter)
        places = {place_of(letter) for letter in gone if letter.parked}
        holds = await self._holds(places)
        for place in places - await self._parked({agent for agent, _, _ in places}):
            await self._release(place, [], holds[place], parked=False)
        return gone

    async def _holds(self, places: Collection[Place]) -> dict[Place, bytes]:
        """Return the hold of each key as it is stored, empty where there is none.

        Read before it is looked up who parks a key: one that parks it later is noticed by its hold being another one.
        """
        keys = self._server.keys
        raw = await self._server.commands(*(("HGET", keys.holds(agent, number), key) for agent, number, key in places))
        return {place: known or b"" for place, known in zip(places, raw, strict=True)}

    async def _parked(self, agents: Iterable[str], but: Container[tuple[str, str]] = ()) -> set[Place]:
        """Return the keys that dead letters park, `but` for those (agent, field)."""
        return {
            place_of(letter)
            for agent in agents
            for letter in await self._all(agent)
            if letter.parked and (agent, letter.field) not in but
        }

    async def _release(
        self, place: Place, letters: list[DeadLetter], known: bytes, *, parked: bool
    ) -> list[DeadLetter]:
        """Put `letters` at the front of the waiting list of a key, and let it be worked off unless it is `parked`."""
        agent, partition, key = place
        keys = self._server.keys
        named = [keys.dead(agent), keys.waiting(agent, partition, key), keys.holds(agent, partition), keys.control]
        rest: list[Argument] = []
        for letter in letters:
            named.append(self._streams.key(partition, await self._streams.get(letter.stream)))
            rest += (letter.field, f"{letter.seq}-0", str(Listed(letter.seq, letter.stream, redriven=True)))
        chosen = {(letter.agent, letter.field) for letter in letters}
        while True:
            hold = Hold(attempts=dict(decode_hold(known).attempts)) if known else Hold()
            if parked:
                hold.until_ms, hold.reason = FOREVER, "parked"
            for letter in letters:
                hold.attempts.pop(letter.seq, None)
            args = [agent, partition, key, known, encode_hold(hold), *rest]
            reply = await self._server.run("redrive", named, args)
            if reply != 0:
                return [letter for letter, outcome in zip(letters, reply, strict=True) if outcome == 1]
            known = (await self._holds([place]))[place]
            parked = place in await self._parked((agent,), but=chosen)

    async def _agents(self, agent: str | None) -> list[str]:
        if agent is not None:
            return [agent]
        return sorted(name.decode() for name in await self._server.command("HKEYS", self._server.keys.agents))

    async def _of_seq(self, agent: str, seq: int) -> list[DeadLetter]:
        raw = await self._server.command("HGET", self._server.keys.dead(agent), seq)
        return [decode_dead(raw)] if raw else [one for one in await self._all(agent) if one.seq == seq]

    async def _all(self, agent: str) -> list[DeadLetter]:
        found: dict[str, DeadLetter] = {}
        cursor = "0"
        while True:
            raw_cursor, page = await self._server.command("HSCAN", self._server.keys.dead(agent), cursor, "COUNT", PAGE)
            for raw in page[1::2]:
                letter = decode_dead(raw)
                found[letter.field] = letter
            cursor = raw_cursor.decode()
            if cursor == "0":
                return list(found.values())


def place_of(letter: DeadLetter) -> Place:
    """Return the key that a dead letter belongs to, as its agent sees it."""
    return letter.agent, letter.partition, letter.order_key
