"""One step of a fold, and how a state is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from spine import Agent, Context, Event, InvalidInput, Projection, ReducerFailed, reduces
from spine.state.dumped import dump
from spine.state.fold import Cell, fold_one


class Account(BaseModel):
    balance: int = 0
    names: set[str] = set()
    notes: list[str] = []


class Paid(BaseModel):
    amount: int


class Ledger(Agent[Account]):
    name = "ledger"
    snapshot_events = 3

    @reduces("account.paid")
    def paid(self, state: Account, event: Event[Paid]) -> Account:
        return state.model_copy(update={"balance": state.balance + event.payload.amount})

    @reduces("account.*")
    def anything(self, state: Account, event: Event[dict[str, Any]]) -> Account:
        return state.model_copy(update={"notes": [*state.notes, event.type]})


def event(type: str, payload: dict[str, Any] | None = None, *, topic: str | None = None, seq: int = 7) -> Event[Any]:
    return Event(
        seq=seq,
        id="e",
        type=type,
        topic=topic or type,
        key="k",
        source="test",
        payload=payload or {},
        context=Context(correlation="c"),
        ts=datetime(2026, 11, 20, tzinfo=UTC),
    )


def test_an_exact_type_goes_before_a_pattern_and_a_payload_becomes_its_model() -> None:
    assert fold_one(Ledger, Account(), event("account.paid", {"amount": 5})) == Account(balance=5)
    assert fold_one(Ledger, Account(), event("account.seen")).notes == ["account.seen"]


def test_what_is_not_declared_leaves_the_state_alone() -> None:
    state = Account(balance=1)
    assert fold_one(Ledger, state, event("order.placed")) is state


@pytest.mark.parametrize("topic", ["@other", "spine.replies"])
def test_what_was_sent_to_another_is_no_part_of_the_fold(topic: str) -> None:
    state = Account(balance=1)
    assert fold_one(Ledger, state, event("account.paid", {"amount": 5}, topic=topic)) is state


def test_what_was_sent_to_the_agent_itself_is_part_of_the_fold() -> None:
    assert fold_one(Ledger, Account(), event("account.paid", {"amount": 5}, topic="@ledger")) == Account(balance=5)


@pytest.mark.parametrize("payload", [{}, {"amount": "many"}])
def test_an_error_names_reducer_event_and_key(payload: dict[str, Any]) -> None:
    with pytest.raises(ReducerFailed, match=r"ledger\.paid .* event 7 \(account\.paid\) of key 'k'"):
        fold_one(Ledger, Account(), event("account.paid", payload))


def test_a_reducer_has_to_return_a_state() -> None:
    class Forgetful(Agent[Account]):
        name = "forgetful"

        @reduces("a.b")
        def fold(self, state: Account, event: Event[Any]) -> None: ...

    with pytest.raises(ReducerFailed, match="returned NoneType on event 7, not a Account"):
        fold_one(Forgetful, Account(), event("a.b"))


def test_a_failed_fold_leaves_the_cell_as_it_was() -> None:
    cell = Cell(Account())
    cell.fold(Ledger, event("account.paid", {"amount": 5}, seq=1))
    before = cell.encode()
    with pytest.raises(ReducerFailed):
        cell.fold(Ledger, event("account.paid", seq=2))
    assert (cell.seq, cell.encode()) == (1, before)


def test_a_stored_state_comes_back() -> None:
    cell = Cell(Account())
    for seq in (3, 9):
        cell.fold(Ledger, event("account.paid", {"amount": 5}, seq=seq))
    found = Cell.decode(Account, cell.encode())
    assert (found.state, found.seq, found.events, found.ts_ms) == (cell.state, 9, 2, cell.ts_ms)
    assert found.encode() == cell.encode()


@given(st.data())
def test_any_damage_to_a_stored_state_is_seen(data: st.DataObject) -> None:
    raw = Cell(Account(balance=12, notes=["ä"]), seq=1234, events=3, ts_ms=1_763_640_000_000).encode()
    place = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != raw[place]))
    damaged = raw[:place] + bytes([byte]) + raw[place + 1 :]
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is damaged, that is all a caller needs to know
        Cell.decode(Account, damaged)
    with pytest.raises(ValueError):  # noqa: PT011
        Cell.decode(Account, raw[:place])


def test_a_snapshot_is_due_after_each_so_many_events_however_the_fold_was_interrupted() -> None:
    due = []
    cell = Cell(Account())
    for seq in range(1, 8):
        cell = Cell.decode(Account, cell.encode())
        cell.fold(Ledger, event("account.paid", {"amount": 1}, seq=seq))
        if cell.snapshot_due:
            due.append(seq)
    assert due == [3, 6]


def test_sets_are_dumped_sorted_wherever_they_hide() -> None:
    class Deep(BaseModel):
        anything: Any = None
        nested: dict[str, list[frozenset[str]]] = {}

    state = Deep(anything={"x": {"b", "a", "c"}}, nested={"y": [frozenset("fed")]})
    assert dump(state) == b'{"anything":{"x":["a","b","c"]},"nested":{"y":[["d","e","f"]]}}'


def test_a_state_is_dumped_alike_in_every_process() -> None:
    code = (
        "from pydantic import BaseModel\nfrom spine.state.dumped import dump\n"
        "class S(BaseModel):\n    names: set[str] = set()\n"
        "print(dump(S(names={str(n) for n in range(50)})).decode())"
    )
    dumps = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(dumps) == 1


def test_a_reducer_that_could_do_io_is_refused() -> None:
    with pytest.raises(InvalidInput, match="plain def"):

        @reduces("a.b")
        async def fold(self: Any, state: Any, event: Any) -> Any: ...


def test_a_state_needs_a_beginning() -> None:
    class Named(BaseModel):
        name: str

    with pytest.raises(InvalidInput, match="'name' has none"):

        class Wrong(Agent[Named]):
            name = "wrong"

            @reduces("a.b")
            def fold(self, state: Named, event: Event[Any]) -> Named:
                return state


@pytest.mark.parametrize("version", ["", "1:2", "a b", "x" * 65])
def test_a_version_is_a_short_word(version: str) -> None:
    with pytest.raises(InvalidInput, match="version"):
        type("Wrong", (Agent,), {"name": "wrong", "version": version})


def test_a_scope_is_key_or_global() -> None:
    with pytest.raises(InvalidInput, match="scope"):
        type("Wrong", (Projection,), {"name": "wrong", "scope": "galaxy"})
