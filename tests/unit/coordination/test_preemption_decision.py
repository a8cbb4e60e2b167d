"""Which handlers give way to urgent work."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import Agent, Event, InvalidInput, on
from spine.coordination.preemption import PATIENCE_S, TIMES, AtWork, give_way

NOW, AGEING_S = 1000.0, 5.0
ALREADY = {"asked_at": NOW - PATIENCE_S / 2}


def at_work(seq: int, **more: Any) -> AtWork:
    return AtWork(seq=seq, **({"began_at": NOW - 60 + seq} | more))


def chosen(waiting: int, *running: AtWork) -> list[int]:
    return [one.seq for one in give_way(running, waiting, NOW, AGEING_S)]


def test_the_one_that_began_last_goes_first() -> None:
    assert chosen(1, at_work(1), at_work(3), at_work(2)) == [3]
    assert chosen(2, at_work(1), at_work(3), at_work(2)) == [3, 2]
    assert chosen(9, at_work(1), at_work(3), at_work(2)) == [3, 2, 1]


def test_nothing_gives_way_to_nothing() -> None:
    assert chosen(0, at_work(1)) == []
    assert chosen(1) == []


def test_nothing_gives_way_for_ever() -> None:
    assert chosen(1, at_work(1, preempted=TIMES - 1, preempted_at=NOW - 1)) == [1]
    assert chosen(1, at_work(1, preempted=TIMES, preempted_at=NOW - 1)) == []
    assert chosen(1, at_work(1, preempted=1, preempted_at=NOW - AGEING_S - 0.1)) == []
    assert chosen(2, at_work(1, preempted=TIMES, preempted_at=NOW), at_work(2)) == [2]


def test_a_slot_that_becomes_free_is_counted() -> None:
    assert chosen(1, at_work(1), at_work(2, **ALREADY)) == []
    assert chosen(2, at_work(1), at_work(2, **ALREADY)) == [1]


def test_one_that_does_not_end_is_not_waited_for() -> None:
    assert chosen(1, at_work(1), at_work(2, asked_at=NOW - PATIENCE_S * 2)) == [1]
    assert chosen(1, at_work(2, asked_at=NOW - 60)) == []


def test_one_without_a_slot_has_none_to_give() -> None:
    assert chosen(1, at_work(1), at_work(2, has_slot=False)) == [1]
    assert chosen(2, at_work(1), at_work(2, has_slot=False, **ALREADY)) == [1]


def test_whatever_stands_before_an_urgent_event_of_its_key_goes_in_any_case() -> None:
    assert chosen(0, at_work(1, in_the_way=True), at_work(2)) == [1]
    assert chosen(0, at_work(1, in_the_way=True, has_slot=False)) == [1]
    assert chosen(1, at_work(1, in_the_way=True), at_work(2)) == [1, 2]
    assert chosen(1, at_work(1, in_the_way=True, **ALREADY), at_work(2)) == [2]
    assert chosen(0, at_work(1, in_the_way=True, preempted=TIMES)) == []


def test_what_has_not_begun_goes_first_and_as_often_as_need_be() -> None:
    assert chosen(1, at_work(1, begun=False), at_work(2)) == [1]
    assert chosen(3, at_work(1, begun=False), at_work(2, begun=False), at_work(3), at_work(4)) == [2, 1, 4]
    assert chosen(1, at_work(1, begun=False, preempted=TIMES, preempted_at=NOW - 60), at_work(2)) == [1]
    assert chosen(1, at_work(1, begun=False, **ALREADY), at_work(2)) == []


running = st.builds(
    AtWork,
    seq=st.integers(),
    began_at=st.floats(0, NOW),
    begun=st.booleans(),
    asked_at=st.none() | st.floats(NOW - 1, NOW),
    preempted=st.integers(0, TIMES + 1),
    preempted_at=st.floats(NOW - 10, NOW),
    has_slot=st.booleans(),
    in_the_way=st.booleans(),
)


@given(st.lists(running), st.integers(0, 10))
def test_no_more_give_way_than_are_needed_and_none_twice(at_work: list[AtWork], waiting: int) -> None:
    out = give_way(at_work, waiting, NOW, AGEING_S)
    assert all(one.asked_at is None and (not one.begun or one.preempted < TIMES) for one in out)
    assert sum(not one.in_the_way for one in out) <= waiting
    assert len({id(one) for one in out}) == len(out)


@pytest.mark.parametrize("setting", ["ageing_s", "prefetch", "concurrency"])
@pytest.mark.parametrize("value", [-1, "5", timedelta(seconds=5), float("nan")])
def test_settings_that_would_stop_a_worker_are_refused_where_they_are_made(setting: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"Wrong: {setting} is .*, not {re.escape(repr(value))}"):
        type("Wrong", (Agent,), {"name": "wrong", setting: value})


def test_ageing_may_be_at_once_or_never() -> None:
    for value in (0, 0.5, float("inf")):
        assert type("Right", (Agent,), {"name": "right", "ageing_s": value})


def test_what_runs_in_a_thread_cannot_be_preemptible() -> None:
    with pytest.raises(InvalidInput, match="thread"):

        class Threaded(Agent):
            name = "threaded"

            @on("a.b", preemptible=True)
            def handle(self, event: Event[Any]) -> None: ...
