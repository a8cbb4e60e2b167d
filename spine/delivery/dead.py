"""The dead letters: looking at them, bringing them back, and throwing them away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypedDict

import msgspec

from spine.connection import Argument, Server
from spine.delivery.holds import Hold, Listed, decode_hold, encode_hold
from spine.delivery.records import DeadLetter, decode_dead
from spine.events import to_ms
from spine.log.streams import Streams
from spine.names import check_agent_name, check_pattern, matcher

PAGE = 500


class Wanted(TypedDict, total=False):
    """The fields of `DeadFilter`, as keywords."""

    seq: int | None
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
        seq: of this event.
        types: of events of these types or patterns.
        key: of events of this key.
        correlation: of events of this correlation.
        error: whose error (its class or message) contains this.
        since: given up at this time or later.
        until: given up at this time or earlier.
    """

    agent: str | None = None
    seq: int | None = None
    types: tuple[str, ...] = ()
    key: str | None = None
    correlation: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, agent: str | None, wanted: Wanted) -> DeadFilter:
        """Return the filter that keywords describe. Raises `InvalidInput`."""
        types = wanted.get("types", ())
        return cls(
            agent=None if agent is None else check_agent_name(agent),
            seq=wanted.get("seq"),
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
                (self.seq is None or letter.seq == self.seq)
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
            if wanted.seq is not None:
                found += filter(accepts, await self._of_seq(agent, wanted.seq))
            else:
                found += filter(accepts, await self._all(agent))
        return sorted(found, key=lambda letter: (letter.seq, letter.agent, letter.field))

    async def redrive(self, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
        """Have the events of `letters` handled again, those of one key in seq order; return what is on its way.

        With ``on_dead="park"`` an event takes its old place, else it runs next for its key; `Handling.redriven` is
        true. Left out is what nobody can handle: entries that are no events, events that were trimmed away.
        """
        groups: dict[tuple[str, int, str], list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            if not letter.entry_id:
                groups[letter.agent, letter.partition, letter.order_key].append(letter)
        came: list[DeadLetter] = []
        for (agent, partition, key), group in groups.items():
            came += await self._release(agent, partition, key, sorted(group, key=lambda letter: letter.seq))
        return came

    async def discard(self, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
        """Delete `letters` for good; a key that was parked for one of them alone goes on. Return what was deleted."""
        gone: list[DeadLetter] = []
        for letter in letters:
            if await self._server.command("HDEL", self._server.keys.dead(letter.agent), letter.field):
                gone.append(letter)
        parked = {(letter.agent, letter.partition, letter.order_key) for letter in gone if letter.parked}
        for agent in {agent for agent, _, _ in parked}:
            still = {
                (other.agent, other.partition, other.order_key) for other in await self._all(agent) if other.parked
            }
            for _, partition, key in (place for place in parked - still if place[0] == agent):
                await self._release(agent, partition, key, [])
        return gone

    async def _release(self, agent: str, partition: int, key: str, letters: list[DeadLetter]) -> list[DeadLetter]:
        """Put `letters` at the front of the waiting list of `key`, and let it be worked off."""
        keys = self._server.keys
        named = [keys.dead(agent), keys.waiting(agent, partition, key), keys.holds(agent, partition), keys.control]
        rest: list[Argument] = []
        for letter in letters:
            named.append(self._streams.key(partition, await self._streams.get(letter.stream)))
            rest += (letter.field, f"{letter.seq}-0", str(Listed(letter.seq, letter.stream, redriven=True)))
        while True:
            known = await self._server.command("HGET", keys.holds(agent, partition), key) or b""
            hold = Hold(attempts=dict(decode_hold(known).attempts)) if known else Hold()
            for letter in letters:
                hold.attempts.pop(letter.seq, None)
            reply = await self._server.run("redrive", named, [agent, partition, key, known, encode_hold(hold), *rest])
            if reply != 0:
                return [letter for letter, outcome in zip(letters, reply, strict=True) if outcome == 1]

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
