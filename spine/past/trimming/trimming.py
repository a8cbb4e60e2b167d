"""Trimming: old events leave the log with all that names them, but none that somebody still needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from pydantic import BaseModel

from spine.codec import decode_entry
from spine.connection import Argument
from spine.errors import DecodeError, ReducerFailed, StateError
from spine.faults import fault
from spine.log.floors import floors
from spine.log.reader import Extent, Reader
from spine.past.snapshots import Snapshots
from spine.past.timetravel import WHOLE, TimeTravel
from spine.past.trimming.stakes import Blocker, Folding, Stakes
from spine.state.fold import Cell, Reducing, split_stored
from spine.state.rebuild import Rebuilder

logger = logging.getLogger("spine")

WINDOW = 1_000


class Trim(msgspec.Struct, kw_only=True):
    """What a trim did, or would do.

    Attributes:
        target: the seq up to which events were to go.
        floors: for each partition that ever lost events the seq up to which they are gone.
        events: how many went.
        blockers: who needs an event that should have gone; with ``force``, who needed one that went.
        unreachable: states of moments since the floor that cannot be had any more: keys that went on meanwhile, of
            agents whose class was not given.
        dry_run: nothing was changed.
        forced: the blockers were passed over.
    """

    target: int
    floors: dict[int, int]
    events: int = 0
    blockers: list[Blocker] = []
    unreachable: int = 0
    dry_run: bool = False
    forced: bool = False


class _Page(msgspec.Struct):
    """The events of one partition that go in one step.

    Attributes:
        limit: seq of the last that goes.
        found: (seq, number of the stream, topic, event or ``None`` where it is none).
    """

    limit: int
    found: list[tuple[int, int, str, Any]]

    def up_to(self, seq: int) -> _Page:
        """Return what of it goes when nothing after `seq` does."""
        return _Page(seq, [one for one in self.found if one[0] <= seq])


class _Standing(msgspec.Struct):
    """How far the stored state of a key is folded, and the last event of a page that is part of it."""

    last: int
    stored: int = -1
    damaged: bytes = b""


class Trimmer:
    """Trims one namespace.

    Args:
        reader: of the log.
        kinds: classes of agents and projections: states of theirs that are not stored are folded and stored, so that
            nothing is held up, and states since the floor can be had of keys that go on.
    """

    def __init__(self, reader: Reader, kinds: Iterable[type[Reducing[Any]]] = ()) -> None:
        self._server = reader.server
        self._reader = reader
        self._streams = reader.streams
        self._stakes = Stakes(reader.server, reader.streams, {kind.name: kind for kind in kinds if kind.reducers})
        self._folds: dict[tuple[str, str, str], bool] = {}
        self._folding: list[Folding] = []

    async def trim(
        self,
        target: int,
        *,
        dry_run: bool = False,
        force: bool = False,
        told: Callable[[int], None] = lambda events: None,
    ) -> Trim:
        """Take out the events up to seq `target`, as far as nobody needs them, in steps that may be broken off.

        `told` is called with the count of events as it grows.
        """
        self._folding = await self._stakes.folding()
        report = Trim(target=target, floors=await floors(self._server), dry_run=dry_run, forced=force)
        report.blockers = sorted(
            one for one in (*await self._stakes.not_handled(), *self._behind()) if one.seq <= target
        )
        limits = {
            partition: min((one.seq - 1 for one in report.blockers if one.partition == partition), default=target)
            for partition in range(self._server.partitions)
        }
        if force:
            limits = dict.fromkeys(limits, target)
        await self._streams.refresh()
        for partition, limit in limits.items():
            await self._trim(partition, limit, report, told)
        report.blockers = sorted(set(report.blockers))
        if force and report.blockers:
            logger.warning("trimmed by force up to seq %d: %d still needed what went", target, len(report.blockers))
        return report

    def _behind(self) -> list[Blocker]:
        return [
            Blocker(
                seq=folding.position + 1,
                partition=partition,
                agent=folding.name,
                why=f"projection, version {folding.version}, is stored up to {folding.position}",
            )
            for folding in self._folding
            if folding.position is not None
            for partition in range(self._server.partitions)
        ]

    async def _trim(self, partition: int, limit: int, report: Trim, told: Callable[[int], None]) -> None:
        low = report.floors.get(partition, 0)
        while low < limit:
            page = await self._page(partition, low, limit)
            stored, blockers = await self._what_is_stored(page, partition, report.dry_run)
            report.blockers += blockers
            if not report.forced:
                page, limit = stored, min(limit, stored.limit) if blockers else limit
            if page.limit <= low:
                return
            known, low = report.floors.get(partition), page.limit
            if not page.found:  # a floor where nothing went would keep others from reading what is there
                continue
            report.events += len(page.found)
            if not report.dry_run:
                await self._keep_global_bases(low, max(report.floors.values(), default=0))
            report.unreachable += await self._keep_bases(page, partition, report.dry_run)
            if not report.dry_run and not await self._take_out(page, partition, known):
                return
            report.floors[partition] = low
            told(report.events)

    async def _page(self, partition: int, low: int, limit: int) -> _Page:
        """Return the next events of a partition: numbers without any are jumped over."""
        streams = {self._streams.key(partition, stream): stream for stream in self._streams.all()}
        # Each stream goes by its Redis key here: a topic has several.
        extents = [Extent(key, key, 0, 2**53) for key in streams]
        high = min(limit, await self._reader.next_after(extents, low) + WINDOW)
        entries = await self._reader.window(extents, low, high)
        found = [
            (seq, streams[key].number, streams[key].topic, _event(streams[key].topic, entry))
            for seq, key, entry in entries
        ]
        return _Page(high, found)

    # --- states ---

    def _folds_event(self, folding: Folding, topic: str, event_type: str) -> bool:
        place = (folding.name, topic, event_type)
        if place not in self._folds:
            self._folds[place] = folding.folds(topic, event_type)
        return self._folds[place]

    def _last_folded(self, folding: Folding, page: _Page) -> dict[str, int]:
        """Return for each key the last event of a page that is part of its state."""
        return {
            WHOLE if folding.is_global else event.key: seq
            for seq, _, topic, event in page.found
            if event is not None and self._folds_event(folding, topic, event.type)
        }

    async def _what_is_stored(self, page: _Page, partition: int, dry_run: bool) -> tuple[_Page, list[Blocker]]:
        """Return what of a page may go, as every state that it made is stored, and who holds up the rest."""
        blockers: list[Blocker] = []
        for folding in self._folding:
            missing = await self._missing(folding, page, partition)
            if missing and folding.kind is not None and not dry_run:
                await self._store(folding, missing, partition)
                missing = await self._missing(folding, page, partition)
            if not missing or (folding.kind is not None and dry_run):
                continue
            seq = min(
                seq
                for seq, _, topic, event in page.found
                if event is not None
                and (one := missing.get(WHOLE if folding.is_global else event.key)) is not None
                and seq > one.stored
                and self._folds_event(folding, topic, event.type)
            )
            page = page.up_to(seq - 1)
            why = f"{len(missing)} states of version {folding.version} are not stored"
            if not folding.is_global:
                why += f", as that of key {min(missing)!r}"
            blockers.append(Blocker(seq=seq, partition=partition, agent=folding.name, why=why))
        return page, blockers

    async def _missing(self, folding: Folding, page: _Page, partition: int) -> dict[str, _Standing]:
        standing = await self._standing(folding, page, partition)
        return {key: one for key, one in standing.items() if one.stored < one.last}

    async def _standing(self, folding: Folding, page: _Page, partition: int) -> dict[str, _Standing]:
        """Return of each key of a page how far its stored state is, and how far it should be."""
        last = self._last_folded(folding, page)
        if not last:
            return {}
        place = self._states(folding, partition)
        raws = await self._server.command("HMGET", place, *last)
        model = None if folding.kind is None else folding.kind.state_model
        return {key: _standing(seq, raw, model) for (key, seq), raw in zip(last.items(), raws, strict=True)}

    def _states(self, folding: Folding, partition: int) -> str:
        """Return where states of a partition are stored; the only one of a global projection is in the first."""
        return self._server.keys.state(folding.name, folding.version, 0 if folding.is_global else partition)

    async def _store(self, folding: Folding, missing: dict[str, _Standing], partition: int) -> None:
        """Fold and store what is missing; a state that cannot be folded stays missing."""
        args: list[Argument] = []
        for key, cell in (await self._folded(folding, {key: one.last for key, one in missing.items()})).items():
            if (raw := _encoded(cell)) is not None:
                args += (key, raw, missing[key].damaged)
        if args:
            await self._server.run("forward", [self._states(folding, partition)], args)
        fault("trim.stored")

    async def _folded(self, folding: Folding, wanted: dict[str, int]) -> dict[str, Cell | None]:
        """Return the states with the events up to a seq in them, folded on from the newest stored ones."""
        assert folding.kind is not None
        if folding.is_global:
            travel = TimeTravel(self._reader, folding.kind)
            try:
                return {WHOLE: await travel.cell(WHOLE, folding.position or 0)}
            except StateError:
                return {}
        rebuilder = Rebuilder(self._reader, folding.kind)
        return {key: one.cell for key, one in (await rebuilder.bring(wanted, begin="newest")).items()}

    # --- states of moments since the floor ---

    async def _keep_bases(self, page: _Page, partition: int, dry_run: bool) -> int:
        """Keep the states that the page leads to of keys that went on since; return how many cannot be had."""
        unreachable = 0
        for folding in self._folding:
            if folding.is_global:
                continue
            standing = await self._standing(folding, page, partition)
            went_on = {key: one.last for key, one in standing.items() if one.stored > one.last}
            if folding.kind is None:
                unreachable += len(went_on)
            elif not dry_run:
                unreachable += len(went_on) - await self._snapshot(folding.kind, went_on, partition)
        fault("trim.bases")
        return unreachable

    async def _snapshot(self, kind: type[Reducing[Any]], wanted: dict[str, int], partition: int) -> int:
        """Keep the states of some keys at a seq; return of how many that could be done."""
        brought = await Rebuilder(self._reader, kind).bring(wanted)
        commands: list[tuple[Argument, ...]] = []
        for key, one in brought.items():
            if one.cell is not None and (raw := _encoded(one.cell)) is not None:
                place = self._server.keys.snapshots(kind.name, kind.version, partition, key)
                commands.append(("HSET", place, one.cell.seq, raw))
        await self._server.commands(*commands)
        return len(commands)

    async def _keep_global_bases(self, limit: int, floor: int) -> None:
        """Keep of each global projection a state at the seq that is to be the floor, or the stored one instead."""
        for folding in self._folding:
            if folding.is_global and limit > floor:
                snapshots = Snapshots(self._server, folding.name, folding.version)
                raw = await self._global_base(folding, limit)
                if raw is not None:
                    await snapshots.keep(WHOLE, split_stored(raw)[0], raw)
                await snapshots.remove(WHOLE, before=floor)

    async def _global_base(self, folding: Folding, limit: int) -> bytes | None:
        if folding.kind is not None:
            try:
                cell = await TimeTravel(self._reader, folding.kind).cell(WHOLE, limit)
                cell.seq = limit
                return cell.encode()
            except StateError as error:
                logger.warning("no state of %s at seq %d is kept: %s", folding.name, limit, error)
        raw: bytes | None = await self._server.command("HGET", self._states(folding, 0), WHOLE)
        return None if _standing(0, raw, None).damaged else raw

    # --- taking out ---

    async def _take_out(self, page: _Page, partition: int, known: int | None) -> bool:
        """Take a page out at once; false when somebody else trims this partition."""
        keys = self._server.keys
        names = [keys.floors, keys.gone(partition)]
        args: list[Argument] = [partition, "" if known is None else known, page.limit]
        streams = [self._streams.key(partition, stream) for stream in self._streams.all()]
        names += streams
        args.append(len(streams))
        self._name_keys(page, partition, names, args)
        self._name_correlations(page, partition, names, args)
        await self._name_done(page, partition, known or 0, names, args)
        self._name_bases(page, partition, names, args)
        fault("trim.before")
        taken = await self._server.run("trim", names, args)
        fault("trim.after")
        return int(taken) >= 0

    def _name_keys(self, page: _Page, partition: int, names: list[str], args: list[Argument]) -> None:
        last: dict[str, dict[int, int]] = {}
        for seq, number, _, event in page.found:
            if event is not None:
                last.setdefault(event.key, {})[number] = seq
        args.append(len(last))
        for key, seqs in last.items():
            names.append(self._server.keys.by_key(partition, key))
            args += (key, ",".join(f"{seq}:{number}" for number, seq in seqs.items()))

    def _name_correlations(self, page: _Page, partition: int, names: list[str], args: list[Argument]) -> None:
        references: dict[str, list[str]] = {}
        for seq, number, _, event in page.found:
            if event is not None and event.context.correlation != event.key:
                references.setdefault(event.context.correlation, []).append(f"{seq}:{number}:{partition}")
        args.append(len(references))
        for correlation, found in references.items():
            names.append(self._server.keys.by_correlation(correlation))
            args += (len(found), *found)

    async def _name_done(self, page: _Page, partition: int, low: int, names: list[str], args: list[Argument]) -> None:
        """Name the done records of which every number is gone now."""
        full = {seq >> 9 for seq, *_ in page.found} | {low >> 9}
        gone = [number for number in full if (number + 1) << 9 <= page.limit + 1]
        agents = [raw.decode() for raw in await self._server.command("HKEYS", self._server.keys.agents)]
        records = [self._server.keys.done(agent, partition, number << 9) for agent in agents for number in gone]
        names += records
        args.append(len(records))

    def _name_bases(self, page: _Page, partition: int, names: list[str], args: list[Argument]) -> None:
        place = len(args)
        args.append(0)
        count = 0
        keys = self._server.keys
        for folding in self._folding:
            if folding.is_global:
                continue
            for key, seq in self._last_folded(folding, page).items():
                names += (
                    keys.state(folding.name, folding.version, partition),
                    keys.snapshots(folding.name, folding.version, partition, key),
                )
                args += (key, seq)
                count += 1
        args[place] = count


def _encoded(cell: Cell | None) -> bytes | None:
    """Return a state as it is stored; ``None`` where there is none, or a value in it cannot be stored."""
    try:
        return None if cell is None else cell.encode()
    except ReducerFailed:
        return None


def _standing(last: int, raw: bytes | None, model: type[BaseModel] | None) -> _Standing:
    """A damaged state is as good as none, and so is one that does not become a state of `model` again."""
    if raw is None:
        return _Standing(last)
    try:
        return _Standing(last, split_stored(raw)[0] if model is None else Cell.decode(model, raw).seq)
    except ValueError:
        return _Standing(last, damaged=raw)


def _event(topic: str, entry: Any) -> Any:
    try:
        return decode_entry(topic, entry)
    except DecodeError:
        return None
