"""A state is stored as JSON and comes back as it was, whatever pydantic allows in it."""

from __future__ import annotations

import math
from collections import Counter, deque
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, Json, computed_field

from spine.errors import ReducerFailed
from spine.state.dumped import dump, load, shown, values
from spine.state.fold import Cell


class Colour(Enum):
    RED = "r"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: set[int] = set()


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    weight: float = 0.0


class Zoo(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: float = 0.0
    numbers: list[float | None] = []
    money: dict[str, Decimal] = {}
    when: datetime | None = None
    days: dict[date, frozenset[str]] = {}
    took: timedelta = timedelta()
    pets: list[Cat | Dog] = []
    one: int | str | float = 0
    by_colour: dict[Colour, int] = {}
    by_id: dict[UUID, tuple[int, ...]] = {}
    counts: Counter[str] = Counter()
    recent: deque[frozenset[int]] = deque()
    raw: Json[list[int]] | None = None
    big: int = 0
    renamed: int = Field(0, alias="otherName")
    twice_named: int = Field(0, validation_alias="readAs", serialization_alias="writtenAs")

    @computed_field  # type: ignore[prop-decorator] - as pydantic wants it
    @property
    def doubled(self) -> int:
        return self.big * 2


floats = st.floats(allow_nan=False)
zoos = st.builds(
    Zoo,
    number=floats,
    numbers=st.lists(floats | st.none()),
    money=st.dictionaries(st.text(), st.decimals(allow_nan=False, allow_infinity=False)),
    when=st.none() | st.datetimes(timezones=st.just(UTC)),
    days=st.dictionaries(st.dates(), st.frozensets(st.text())),
    took=st.timedeltas(timedelta(days=-9), timedelta(days=9)),
    pets=st.lists(st.builds(Cat, lives=st.sets(st.integers())) | st.builds(Dog, weight=floats)),
    one=st.integers() | st.text() | floats,
    by_colour=st.dictionaries(st.just(Colour.RED), st.integers()),
    by_id=st.dictionaries(st.uuids(), st.tuples(st.integers())),
    counts=st.builds(Counter, st.text()),
    recent=st.builds(deque, st.lists(st.frozensets(st.integers()))),
    raw=st.none() | st.just("[1,2]"),
    big=st.integers(-(2**80), 2**80),
    otherName=st.integers(),
    readAs=st.integers(),
)


@given(zoos)
def test_what_is_stored_comes_back_equal(state: Zoo) -> None:
    found = load(Zoo, dump(state))
    assert found == state
    assert dump(found) == dump(state)
    assert type(found.one) is type(state.one)


class Reading(BaseModel):
    value: float = 0.0
    inner: dict[str, Dog] = {}
    note: str | None = None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_come_back(number: float) -> None:
    for state in (Reading(value=number, inner={"x": Dog(weight=number)}), Zoo(numbers=[1.0, None, number])):
        assert repr(load(type(state), dump(state))) == repr(state)
    body = dump(Reading(value=number))
    assert repr(values(body)["value"]) == repr(number)
    assert shown(body)["value"] in ("NaN", "Infinity", "-Infinity")


def test_a_state_without_such_numbers_is_plain_json() -> None:
    assert dump(Reading(value=1.5)) == b'{"value":1.5,"inner":{},"note":null}'


class Anything(BaseModel):
    value: Any = None


@pytest.mark.parametrize("value", [b"\xff", object(), {frozenset("ab"): 1}])
def test_what_has_no_json_is_an_error_that_says_so(value: Any) -> None:
    with pytest.raises(ReducerFailed, match="event 7 in it cannot be stored as JSON"):
        Cell(Anything(value=value), seq=7).encode()
