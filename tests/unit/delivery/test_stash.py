"""Events of held keys wait until nothing earlier can come, and go on in seq order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from taken_events import BACKGROUND, NORMAL, taken

from spine.delivery.stash import Stash

EVERYTHING = [10**9] * 3


def seqs(events: list[object]) -> list[int]:
    return [event.event.seq for event in events]  # type: ignore[attr-defined]


def test_what_a_stream_that_is_behind_may_still_come_before_is_kept() -> None:
    stash = Stash()
    for seq in (9, 7, 8):
        stash.add(taken(seq))
    assert seqs(stash.within(0, [8, 8, 8])) == [7, 8]
    assert seqs(stash.within(0, [8, 8, 8])) == []
    stash.add(taken(6, "other"))
    assert seqs(stash.within(0, EVERYTHING)) == [6, 9]
    assert stash.sizes == [0, 0, 0]


def test_lanes_and_partitions_have_bounds_of_their_own() -> None:
    stash = Stash()
    for one in (taken(5, lane=BACKGROUND), taken(6, lane=NORMAL), taken(4, partition=1)):
        stash.add(one)
    assert stash.sizes == [0, 2, 1]
    assert seqs(stash.within(0, [9, 9, 4])) == [6]
    assert seqs(stash.within(1, EVERYTHING)) == [4]
    assert seqs(stash.drop_partition(0)) == [5]
    assert stash.drop_partition(0) == []
    assert stash.sizes == [0, 0, 0]


@given(st.lists(st.integers(1, 1000), unique=True), st.lists(st.integers(0, 1000)))
def test_whatever_comes_when_each_goes_on_once_and_in_order(arriving: list[int], bounds: list[int]) -> None:
    stash = Stash()
    for seq in arriving:
        stash.add(taken(seq))
    went: list[int] = []
    for bound in [*sorted(bounds), 1000]:
        went += seqs(stash.within(0, [bound] * 3))
    assert went == sorted(arriving)
