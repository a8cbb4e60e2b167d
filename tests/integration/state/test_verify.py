"""Verifying a fold finds what would make a rebuilt state another one."""

from __future__ import annotations

import itertools
import math
import os
import random
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ledger import Book, Ledger
from pydantic import BaseModel, Field

from spine import Agent, Draft, Event, Projection, ReplayGap, Spine, reduces
from spine.operations.verification.verify import Verified, verify
from spine.past.timetravel import PRESENT


async def verified(spine: Spine, kind: Any, key: str | None = None) -> list[Verified]:
    found = verify(spine.reader, kind, key=key, until=PRESENT)
    return [one async for one in found]


@pytest.fixture
async def log(spine: Spine) -> None:
    await spine.publish_many([Draft("money.in", {"amount": n}, key=f"k{n % 3}") for n in range(30)])


@pytest.mark.usefixtures("log")
async def test_a_pure_fold_has_no_fault(spine: Spine) -> None:
    found = await verified(spine, Ledger)
    assert sorted((one.key, one.events, one.faults) for one in found) == [(f"k{n}", 10, []) for n in range(3)]
    assert [one.key for one in await verified(spine, Ledger, "k1")] == ["k1"]


numbers = itertools.count()
kept: list[int] = []


class Own(BaseModel):
    total: float = 0
    names: list[Any] = []
    anything: Any = None


def mutates_state(self: Any, state: Own, event: Event[Any]) -> Own:
    state.names.append(event.seq)
    return state


def mutates_payload(self: Any, state: Own, event: Event[Any]) -> Own:
    event.payload["seen"] = True
    return state


def keeps_in_self(self: Any, state: Own, event: Event[Any]) -> Own:
    self.count = getattr(self, "count", 0) + 1
    return Own(total=self.count)


def keeps_elsewhere(self: Any, state: Own, event: Event[Any]) -> Own:
    kept.append(event.seq)
    return Own(total=len(kept))


def draws(self: Any, state: Own, event: Event[Any]) -> Own:
    return Own(total=random.random())


def reads_a_file(self: Any, state: Own, event: Event[Any]) -> Own:
    return Own(names=[Path("/etc/hostname").exists() and Path("/etc/hostname").read_text()])


def reads_the_day(self: Any, state: Own, event: Event[Any]) -> Own:
    return Own(names=[datetime.now(UTC).date().isoformat()])


def reads_the_environment(self: Any, state: Own, event: Event[Any]) -> Own:
    return Own(names=[os.environ.get("HOME")])


def prints(self: Any, state: Own, event: Event[Any]) -> Own:
    print(event.seq)
    return Own(total=event.seq)


def writes_where_nobody_looks(self: Any, state: Own, event: Event[Any]) -> Own:
    _note(event)
    return Own(total=state.total + 1)


def _note(event: Event[Any]) -> None:
    Notes.seen.setdefault(event.key, []).append(event.seq)


class Notes:
    seen: ClassVar[dict[str, list[int]]] = {}


def takes_what_has_no_json(self: Any, state: Own, event: Event[Any]) -> Own:
    return Own(anything=b"\xff")


def raises(self: Any, state: Own, event: Event[Any]) -> Own:
    raise KeyError("amount")


def makes_what_cannot_come_back(self: Any, state: Own, event: Event[Any]) -> Own:
    return Own(anything=(1, 2))


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("reducer", "what"),
    [
        (mutates_state, "changes the state it was given"),
        (mutates_payload, "changes the payload"),
        (keeps_in_self, "gives another state when the same events are folded again"),
        (keeps_elsewhere, "gives another state when the same events are folded again"),
        (keeps_elsewhere, "changes a shared object: kept"),
        (keeps_in_self, "changes a shared object: self"),
        (writes_where_nobody_looks, "changes a shared object: Notes.seen"),
        (draws, "gives another state when the same events are folded again"),
        (draws, "uses chance: random.random"),
        (reads_the_day, "reads the clock: datetime.now"),
        (reads_the_environment, "reads the environment"),
        (prints, "does I/O: print"),
        (takes_what_has_no_json, "makes a state that cannot be stored"),
        (reads_a_file, "does I/O: open"),
        (raises, "raises: KeyError('amount')"),
        (makes_what_cannot_come_back, "another one once it was stored and loaded"),
    ],
)
@pytest.mark.parametrize("base", [Agent, Projection])
async def test_what_is_wrong_is_found_and_named(spine: Spine, base: Any, reducer: Any, what: str) -> None:
    kind: Any = type("Wrong", (base,), {"name": "wrong", "state_model": Own, "fold": reduces("money.in")(reducer)})
    faults = [fault for one in await verified(spine, kind, "k1") for fault in one.faults]
    assert [fault for fault in faults if what in fault.what], faults
    assert {(fault.reducer, fault.seq, fault.type) for fault in faults} == {(reducer.__name__, 2, "money.in")}


@pytest.mark.usefixtures("log")
async def test_a_reducer_that_raises_at_once_is_found_among_all_keys(spine: Spine) -> None:
    kind: Any = type("Wrong", (Agent,), {"name": "wrong", "state_model": Own, "fold": reduces("money.in")(raises)})
    found = await verified(spine, kind)
    assert sorted((one.key, len(one.faults)) for one in found) == [("k0", 1), ("k1", 1), ("k2", 1)]


@pytest.mark.usefixtures("log")
async def test_a_state_that_begins_otherwise_each_time_is_found(spine: Spine) -> None:
    class Dated(BaseModel):
        made: datetime = Field(default_factory=datetime.now)
        count: int = 0

    class Counting(Projection[Dated]):
        name = "counting"

        @reduces("money.in")
        def count(self, state: Dated, event: Event[Any]) -> Dated:
            return state.model_copy(update={"count": state.count + 1})

    (one,) = await verified(spine, Counting, "k1")
    assert [fault.what for fault in one.faults] == ["gives another state when the same events are folded again"]


@pytest.mark.usefixtures("log")
async def test_what_depends_on_the_event_alone_is_pure(spine: Spine) -> None:
    def dice(self: Any, state: Own, event: Event[Any]) -> Own:
        drawn = random.Random(event.seq).random()
        return Own(total=drawn if event.seq % 2 else math.nan, anything=str(event.ts + timedelta(hours=1)))

    kind: Any = type("Right", (Agent,), {"name": "right", "state_model": Own, "fold": reduces("money.in")(dice)})
    assert [one.faults for one in await verified(spine, kind)] == [[], [], []]


async def test_a_global_projection_is_verified_as_one(spine: Spine) -> None:
    class Whole(Projection[Book]):
        name = "whole"
        scope = "global"

        @reduces("money.in")
        def move(self, state: Book, event: Event[Any]) -> Book:
            return Book(seqs=[*state.seqs, event.seq])

    await spine.publish_many([Draft("money.in", {"amount": n}, key=f"k{n % 3}") for n in range(30)])
    ((one),) = await verified(spine, Whole)
    assert (one.key, one.events, one.faults) == ("", 30, [])


class Total(BaseModel):
    total: int = 0


def counting(by: int, version: str) -> Any:
    def count(self: Any, state: Total, event: Event[Any]) -> Total:
        return Total(total=state.total + by)

    body = {"name": "counting", "version": version, "count": reduces("money.in")(count)}
    return types.new_class("Counting", (Projection[Total],), {}, lambda space: space.update(body))


@pytest.mark.usefixtures("log")
async def test_a_reducer_that_changed_under_its_version_is_found_by_what_is_stored(spine: Spine) -> None:
    await spine.snapshot(counting(1, "1"), key="k1")
    assert [one.stored for one in await verified(spine, counting(1, "1"), "k1")] == [None]
    (changed,) = [one.stored for one in await verified(spine, counting(2, "1")) if one.stored is not None]
    assert (changed.key, changed.seq, "version 1 has not" in changed.what) == ("k1", 29, True)
    assert [one.stored for one in await verified(spine, counting(2, "2"), "k1")] == [None]


@pytest.mark.usefixtures("log")
async def test_of_a_trimmed_log_what_is_left_is_verified(spine: Spine) -> None:
    class Strict(Projection[Book]):
        name = "strict"

        @reduces("money.in")
        def move(self, state: Book, event: Event[Any]) -> Book:
            if len(state.seqs) != (event.seq - 1) // 3:
                raise ValueError("events are missing")
            return Book(seqs=[*state.seqs, event.seq])

    await spine.snapshot(Strict, key="k1", at=14)
    await spine.trim(until=14)
    one, two = [(await verified(spine, Strict, key)) for key in ("k1", "k1")]
    assert [(found.events, found.faults) for found in one] == [(5, [])]
    assert one == two
    with pytest.raises(ReplayGap):
        await verified(spine, Strict, "k2")
