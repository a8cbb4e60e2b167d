"""States from the log: the nearest stored one of each key, and the events since folded into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from spine.connection import Argument
from spine.errors import ReducerFailed, ReplayGap, StateError
from spine.events import Event
from spine.keys import partition_of
from spine.log.reader import Reader, decoded
from spine.state.dumped import values
from spine.state.fold import Cell, Reducing, split_stored

logger = logging.getLogger("spine")

PAGE = 2_000
FIRST_PAGE_OF_A_KEY = 500
KEYS_A_CALL = 500


class Brought(msgspec.Struct):
    """What became of the state of one key.

    Attributes:
        cell: the state; ``None`` when it could not be had.
        error: why not.
        folded: how many events were folded from the log.
        last: seq of the last of these.
        stored: there was a stored state to begin with.
        damaged: why that could not be used.
    """

    cell: Cell | None = None
    error: StateError | None = None
    folded: int = 0
    last: int = 0
    stored: bool = False
    damaged: str = ""


class _Key(msgspec.Struct):
    """A key on its way: how far it is, and where to begin when it is asked for."""

    key: str
    until: int
    cell: Cell | None
    begin: str
    first_begin: str
    position: int = 0
    begun_here: bool = False
    begun_anew: bool = False
    out: Brought = msgspec.field(default_factory=Brought)
    references: list[tuple[int, int]] = []

    def begin_anew(self) -> bool:
        """Begin once more where events vanished on the way: a trim went by. Tell whether that makes sense."""
        if not self.begun_here or self.begun_anew:
            return False
        self.cell, self.begin, self.position, self.out = None, self.first_begin, 0, Brought()
        self.begun_anew = True
        return True


class Rebuilder:
    """Brings states of one agent or projection, per key, up to a seq.

    Args:
        reader: of the log.
        kind: whose states.
    """

    def __init__(self, reader: Reader, kind: type[Reducing[Any]]) -> None:
        self._server = reader.server
        self._reader = reader
        self._streams = reader.streams
        self._kind = kind

    async def bring(
        self, wanted: Mapping[str, int], at_hand: Mapping[str, Cell] | None = None, *, begin: str = "stored"
    ) -> dict[str, Brought]:
        """Return for each key of `wanted` its state with every event up to that seq in it.

        Cells `at_hand` are folded on in place. ``begin="newest"`` takes the stored state even where that is later than
        asked for, ``"0"`` takes none. What cannot be had for one key (a reducer that raises, events trimmed away) is in
        its `Brought.error`, and hurts no other.
        """
        cells = at_hand or {}
        keys = [_Key(key, until, cells.get(key), begin, begin) for key, until in wanted.items()]
        for start in range(0, len(keys), KEYS_A_CALL):
            await self._bring(keys[start : start + KEYS_A_CALL])
        for item in keys:
            item.out.cell = item.cell if item.out.error is None else None
        return {item.key: item.out for item in keys}

    async def _bring(self, keys: list[_Key]) -> None:
        page = FIRST_PAGE_OF_A_KEY
        while keys:
            replies = await self._ask(keys, page)
            more = []
            for item, (raw, snapshot, gone, count, references) in zip(keys, replies, strict=True):
                if await self._begin(item, raw, snapshot.decode(), gone.decode()):
                    item.references = [_parsed(reference) for reference in references]
                    if count > len(references):
                        more.append(item)
                elif item.out.error is None:
                    more.append(item)
            again = await self._fold_all([item for item in keys if item.out.error is None])
            keys = [item for item in {id(item): item for item in (*more, *again)}.values() if item.out.error is None]
            page = PAGE

    async def _ask(self, items: list[_Key], page: int) -> Any:
        keys, partitions, kind = self._server.keys, self._server.partitions, self._kind
        names: list[str] = []
        args: list[Argument] = [PAGE]
        for item in items:
            partition = partition_of(item.key, partitions)
            names += (
                keys.state(kind.name, kind.version, partition),
                keys.snapshots(kind.name, kind.version, partition, item.key),
                keys.gone(partition),
                keys.by_key(partition, item.key),
            )
            after = item.cell.seq if item.cell is not None and not item.position else item.position
            args += (item.key, item.begin if item.cell is None else after, item.until, page)
        return await self._server.run("bases", names, args)

    async def _begin(self, item: _Key, raw: bytes, snapshot: str, gone: str) -> bool:
        """Tell whether `item` has a state to fold on; what is stored is used where it can be."""
        if item.cell is not None:
            return True
        try:
            item.cell = self._stored(raw)
        except ValueError as error:
            item.out.damaged = item.out.damaged or str(error)
            item.begin = f"snapshot:{snapshot}" if snapshot else "snapshot"
            return False
        item.begun_here = True
        item.out.stored = bool(raw)
        trimmed = await self._trimmed(gone)
        if item.cell.seq < min(trimmed, item.until):
            try:
                await self._migrate(item, trimmed)
            except ReducerFailed as error:
                item.out.error = error
        return item.cell is not None

    def _stored(self, raw: bytes) -> Cell:
        if not raw:
            return Cell(self._kind.initial())
        assert self._kind.state_model is not None
        return Cell.decode(self._kind.state_model, raw)

    async def _trimmed(self, gone: str) -> int:
        """Return the seq of the last event of the fold that was trimmed away; 0 for none."""
        last = 0
        for entry in gone.split(",") if gone else ():
            seq, number = entry.split(":")
            if self._kind.may_fold((await self._streams.get(int(number))).topic):
                last = max(last, int(seq))
        return last

    async def _migrate(self, item: _Key, trimmed: int) -> None:
        """Take over what an earlier version stored: the events that made it are gone."""
        item.cell = None
        keys, kind = self._server.keys, self._kind
        if kind.migrate.__func__ is not Reducing.migrate.__func__:  # type: ignore[attr-defined]
            partition = partition_of(item.key, self._server.partitions)
            raw = await self._server.command("HGET", keys.agent(kind.name), "versions")
            for version in reversed((raw or b"").decode().split()):
                stored = await self._server.command("HGET", keys.state(kind.name, version, partition), item.key)
                if version != kind.version and stored is not None:
                    item.cell = self._migrated(version, stored, trimmed, item.until)
                if item.cell is not None:
                    return
        item.out.error = ReplayGap(
            f"the state of {kind.name}, key {item.key!r}, at seq {item.until} needs events up to {trimmed}, which were "
            "trimmed away, and no stored state covers them. Give the new version a migrate(), or ask for a later seq."
        )

    def _migrated(self, version: str, stored: bytes, trimmed: int, until: int) -> Cell | None:
        try:
            seq, events, ts_ms, body = split_stored(stored)
        except ValueError:
            return None
        if not trimmed <= seq <= until:
            return None
        try:
            state = self._kind.migrate(version, values(body))
        except Exception as error:
            raise ReducerFailed(f"{self._kind.name}.migrate raised on a state of version {version}: {error}") from error
        return Cell(state, seq, events, ts_ms)

    async def _fold_all(self, items: list[_Key]) -> list[_Key]:
        """Fold what was found of every key; return those that have to begin anew."""
        wanted: list[tuple[int, int, int]] = []
        owners: dict[int, _Key] = {}
        for item in items:
            partition = partition_of(item.key, self._server.partitions)
            for seq, number in item.references:
                item.position = seq
                if self._kind.may_fold((await self._streams.get(number)).topic):
                    wanted.append((seq, partition, number))
                    owners[seq] = item
        entries = await self._reader.fetch(wanted) if wanted else []
        vanished = owners.keys() - {entry[0] for entry in entries}
        anew = [owners[seq] for seq in vanished if owners[seq].begin_anew()]
        for event in decoded(entries):
            self._fold(owners[event.seq], event)
        for item in items:
            item.references = []
            if item.cell is not None and item not in anew:
                item.cell.seq = max(item.cell.seq, item.position)
        return anew

    def _fold(self, item: _Key, event: Event[Any]) -> None:
        cell = item.cell
        if cell is None or item.out.error is not None or event.seq <= cell.seq:
            return
        try:
            cell.fold(self._kind, event)
        except StateError as error:
            item.out.error = error
        else:
            item.out.folded += 1
            item.out.last = event.seq


def _parsed(reference: bytes) -> tuple[int, int]:
    seq, _, number = reference.partition(b":")
    return int(seq), int(number)
