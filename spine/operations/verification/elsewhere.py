"""The same fold in another process, where hashes are others: an order of sets that got into a state shows there."""

from __future__ import annotations

import asyncio
import os
import sys
from array import array
from contextlib import aclosing
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from spine.client import Spine
from spine.errors import ReducerFailed, StateError
from spine.events import Event
from spine.operations.targets import load
from spine.operations.verification.verify import Fault, keys_to_fold
from spine.past.timetravel import TimeTravel
from spine.state.fold import Reducing


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the other process is to fold; it comes on its stdin, as a URL may hold a password."""

    target: str
    app_dir: str
    url: str | None
    namespace: str
    key: str | None
    until: int


class Elsewhere:
    """Folds in a process of its own, meanwhile; an async context manager.

    Args:
        order: what to fold.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Elsewhere:
        pipe = asyncio.subprocess.PIPE
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def digests(self) -> dict[str, array[int]]:
        """Return for each key what the states were there, event by event. Raises `StateError` where it failed."""
        assert self._process is not None
        out, said = await self._process.communicate(msgspec.json.encode(self._order))
        if self._process.returncode:
            raise StateError(f"the same fold in another process failed: {said.decode(errors='replace').strip()}")
        found = msgspec.json.Decoder(Folded).decode_lines(out)
        return {one.key: array("L", one.digests) for one in found}


class Folded(msgspec.Struct, frozen=True):
    """A digest of the state of a key after each event."""

    key: str
    digests: list[int]


async def differences(
    spine: Spine, kind: type[Reducing[Any]], ours: dict[str, array[int]], theirs: dict[str, array[int]], until: int
) -> list[Fault]:
    """Return for each key the first event after which the state was another one in the other process."""
    travel = TimeTravel(spine.reader, kind)
    faults = []
    for key, mine in ours.items():
        other = theirs.get(key, array("L"))
        place = next((n for n, pair in enumerate(zip_longest(mine, other)) if pair[0] != pair[1]), None)
        if place is not None:
            event = await _event_at(travel, key, place, until)
            spec = kind.reducer_for(event)
            assert spec is not None
            what = "gives another state in another process, where hashes and orders of sets are others"
            faults.append(Fault(key=key, seq=event.seq, type=event.type, reducer=spec.function.__qualname__, what=what))
    return faults


async def _event_at(travel: TimeTravel[Any], key: str, place: int, until: int) -> Event[Any]:
    """Return the event at a place among those that are folded for a key."""
    base = await travel.base(key, until)
    async with aclosing(travel.events(key, base.seq, until)) as batches:
        async for events in batches:
            if place < len(events):
                return events[place]
            place -= len(events)
    raise StateError(f"the events of key {key!r} became fewer meanwhile: verify again")


async def fold(order: Order, out: BinaryIO) -> None:
    """Fold what is ordered, and write the digests out."""
    kind = load(order.target, Path(order.app_dir))
    async with Spine(order.url, namespace=order.namespace) as spine:
        travel = TimeTravel(spine.reader, kind)
        async with aclosing(keys_to_fold(spine.server, kind, order.key)) as keys:
            async for key in keys:
                digests = await _digests(travel, kind, key, order.until)
                out.write(msgspec.json.encode(Folded(key, digests)) + b"\n")


async def _digests(travel: TimeTravel[Any], kind: type[Reducing[Any]], key: str, until: int) -> list[int]:
    cell, found = await travel.base(key, until), []
    async with aclosing(travel.events(key, cell.seq, until)) as batches:
        async for events in batches:
            for event in events:
                try:
                    cell.fold(kind, event)
                    found.append(cell.digest)
                except ReducerFailed:  # told by who asked, where it fails alike
                    return found
    return found


if __name__ == "__main__":
    asyncio.run(fold(msgspec.json.decode(sys.stdin.buffer.read(), type=Order), sys.stdout.buffer))
