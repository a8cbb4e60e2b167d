"""What events mean to a gate: it opens once for each full set, never early, and in whatever order they come."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import Agent, Context, Event, InvalidInput, InvalidName, on, on_all, on_missing
from spine.coordination.gate import Round, decide, missing, with_arrival
from spine.events import from_ms

ABC = ("a", "b", "c")


def event(type: str, seq: int = 1, ts_ms: int = 0, id: str = "") -> Event[Any]:
    return Event(
        seq=seq, id=id or f"e{seq}", type=type, topic=type, key="k", source="s", payload={}, context=Context(),
        ts=from_ms(ts_ms),
    )  # fmt: skip


def waiting(*types: str, until_ms: int | None = None, time_out: str = "") -> Round:
    return Round({type: event(type) for type in types}, until_ms, time_out)


def test_a_gate_opens_with_the_last_of_its_conditions() -> None:
    assert decide(ABC, waiting(), event("b")) == "begin"
    assert decide(ABC, waiting("b"), event("c")) == "join"
    assert decide(ABC, waiting("b", "c"), event("c", 9)) == "join"
    assert decide(ABC, waiting("b", "c"), event("a")) == "open"


def test_what_comes_in_the_last_millisecond_is_in_time() -> None:
    assert decide(ABC, waiting("b", "c", until_ms=100), event("a", ts_ms=100)) == "open"
    assert decide(ABC, waiting("b", "c", until_ms=100), event("a", ts_ms=101)) == "late"
    assert decide(ABC, waiting("b", until_ms=100), event("a", ts_ms=101)) == "late"
    assert decide(ABC, waiting(until_ms=100), event("a", ts_ms=101)) == "begin"


def test_a_time_out_ends_its_own_round_only() -> None:
    time_out = event("spine.gate.book", id="t1")
    assert decide(ABC, waiting("a", until_ms=100, time_out="t1"), time_out) == "over"
    assert decide(ABC, waiting("a", until_ms=100, time_out="t2"), time_out) == "nothing"
    assert decide(ABC, waiting(), time_out) == "nothing"


def test_what_is_missing_is_told_in_the_order_of_the_declaration() -> None:
    assert missing(ABC, waiting("b").arrived) == ("a", "c")


def test_the_latest_of_a_type_counts_even_where_a_lane_overtook() -> None:
    arrived = with_arrival({}, event("a", 5))
    assert with_arrival(arrived, event("a", 7))["a"].seq == 7
    assert with_arrival(arrived, event("a", 3))["a"].seq == 5


@given(st.lists(st.sampled_from(ABC), max_size=40))
def test_in_any_order_each_full_set_opens_once_and_none_opens_early(types: list[str]) -> None:
    round, opened, since = Round(), 0, set[str]()
    full = 0
    for seq, type in enumerate(types, 1):
        since.add(type)
        came = event(type, seq)
        verdict = decide(ABC, round, came)
        assert (verdict == "open") == (since == set(ABC))
        assert (verdict == "begin") == (not round.arrived)
        if since == set(ABC):
            full, since = full + 1, set()
        if verdict == "open":
            opened, round = opened + 1, Round()
        else:
            round = Round(with_arrival(round.arrived, came))
    assert opened == full


def test_a_declared_gate_is_seen_like_any_handler() -> None:
    class Fine(Agent):
        name = "fine"

        @on_all("a.b", "c.d", within=timedelta(minutes=1))
        async def book(self, events: Any) -> None: ...

        @on("a.*")
        async def other(self, event: Event[Any]) -> None: ...

    assert Fine.topics() == ("a.*", "a.b", "c.d", "@fine")
    gate, time_out = Fine.handler_of("a.b"), Fine.handler_of("spine.gate.book")
    assert gate is not None
    assert time_out is not None
    assert gate.function is time_out.function
    assert Fine.handler_of("a.x") is Fine.handlers[0]


def plain(self: Any, events: Any, ctx: Any) -> None: ...


def fresh(mark: Any, name: str = "handler") -> Any:
    """Return a handler of its own that carries a mark."""

    async def made(self: Any, events: Any, missing: Any = None) -> None: ...

    made.__name__ = name
    return mark(made)


def declare(**members: Any) -> None:
    type("Wrong", (Agent,), {"name": "wrong", **members})


def test_a_type_has_one_place_in_an_agent() -> None:
    gate = fresh(on_all("a.b", "c.d"))
    with pytest.raises(InvalidInput, match=r"'a\.b' is handled by other and by handler"):
        declare(handler=gate, other=fresh(on("a.b"), "other"))
    with pytest.raises(InvalidInput, match=r"'c\.d' is handled by handler and by other"):
        declare(handler=gate, other=fresh(on_all("c.d", "e.f"), "other"))


def test_gates_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="two or more types"):
        on_all("a.b")
    with pytest.raises(InvalidInput, match="each named once"):
        on_all("a.b", "c.d", "a.b")
    with pytest.raises(InvalidInput, match="not for patterns"):
        on_all("a.b", "c.*")
    with pytest.raises(InvalidInput, match="greater than zero"):
        on_all("a.b", "c.d", within=0)
    with pytest.raises(InvalidInput, match="does not wait for"):
        on_all("a.b", "c.d", models={"e.f": None})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="must be an async def"):
        on_all("a.b", "c.d")(plain)
    with pytest.raises(InvalidInput, match="must be an async def"):
        on_missing("a")(plain)


def test_agents_with_gates_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="order per key"):
        declare(ordering="none", book=fresh(on_all("a.b", "c.d"), "book"))
    with pytest.raises(InvalidInput, match="'book' is no method marked"):
        declare(remind=fresh(on_missing("book"), "remind"))
    with pytest.raises(InvalidInput, match="remind would never run"):
        declare(book=fresh(on_all("a.b", "c.d"), "book"), remind=fresh(on_missing("book"), "remind"))
    with pytest.raises(InvalidInput, match="two methods wait"):
        declare(
            book=fresh(on_all("a.b", "c.d", within=1), "book"),
            remind=fresh(on_missing("book"), "remind"),
            again=fresh(on_missing("book"), "again"),
        )
    with pytest.raises(InvalidName):
        declare(_Book=fresh(on_all("a.b", "c.d"), "_Book"))
