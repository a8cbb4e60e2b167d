"""Whose turn it is among the lanes: urgent first, and the others not never."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taken_events import BACKGROUND, EVERYTHING, NORMAL, URGENT, taken

from spine.delivery.hand import PASSED_BY, Hand, Taken

NOW = 100.0
OLD, YOUNG = NOW - 6, NOW - 4


@pytest.fixture
def hand() -> Hand:
    """A hand of which everything has been read, where five seconds are long."""
    hand = Hand(ageing_s=5.0)
    hand.set_bounds(0, EVERYTHING)
    return hand


def add(hand: Hand, lane: int, since: float, *seqs: int) -> None:
    for seq in seqs:
        hand.add(taken(seq, f"k{seq}", lane, since=since))


def run_next(hand: Hand) -> Taken:
    one = hand.next_ready(NOW)
    assert one is not None
    hand.finished(one)
    return one


def run_lanes(hand: Hand, times: int) -> list[int]:
    return [run_next(hand).lane for _ in range(times)]


def test_what_waited_too_long_has_its_turn_once_in_a_while(hand: Hand) -> None:
    add(hand, NORMAL, OLD, 1, 2, 3)
    add(hand, URGENT, OLD, *range(10, 20))
    assert run_lanes(hand, 10) == [NORMAL, URGENT, URGENT, URGENT, NORMAL, URGENT, URGENT, URGENT, NORMAL, URGENT]


def test_what_did_not_wait_too_long_waits_for_all_urgent_ones(hand: Hand) -> None:
    add(hand, NORMAL, YOUNG, 1)
    add(hand, URGENT, YOUNG, *range(10, 20))
    assert run_lanes(hand, 11) == [*[URGENT] * 10, NORMAL]


def test_two_lanes_that_wait_too_long_leave_the_urgent_one_its_half(hand: Hand) -> None:
    for lane in (URGENT, NORMAL, BACKGROUND):
        add(hand, lane, OLD, *range(100 * lane, 100 * lane + 40))
    lanes = run_lanes(hand, 40)
    assert [lanes.count(lane) for lane in (URGENT, NORMAL, BACKGROUND)] == [20, 10, 10]


def test_a_backlog_of_its_own_makes_no_lane_pass_an_urgent_event(hand: Hand) -> None:
    add(hand, NORMAL, OLD, *range(20))
    run_lanes(hand, 5)
    for seq in range(30, 35):
        add(hand, URGENT, NOW, seq)
        assert run_lanes(hand, 2) == [URGENT, NORMAL]


def test_it_is_noted_which_event_went_before_more_urgent_ones(hand: Hand) -> None:
    add(hand, BACKGROUND, OLD, 1, 2)
    assert not run_next(hand).by_age
    add(hand, NORMAL, NOW, *range(10, 10 + PASSED_BY))
    run_lanes(hand, PASSED_BY)
    add(hand, NORMAL, NOW, 20)
    passing = run_next(hand)
    assert (passing.event.seq, passing.by_age) == (2, True)
    assert not run_next(hand).by_age


@given(st.lists(st.sampled_from([URGENT, NORMAL, BACKGROUND]), min_size=1), st.integers(1, 3))
def test_nothing_old_waits_for_more_than_a_few(drawn: list[int], together: int) -> None:
    """Whatever comes, the head of a lane that waits too long is passed by others only so often."""
    hand, seqs, passed = Hand(ageing_s=5.0), count(1), {NORMAL: 0, BACKGROUND: 0}
    hand.set_bounds(0, EVERYTHING)
    for lane in drawn:
        for _ in range(together):
            add(hand, lane, OLD, next(seqs))
        heads = {lane for lane in passed if hand.has_ready(lane)}
        ran = run_next(hand).lane
        for lane in passed:
            passed[lane] = passed[lane] + 1 if lane in heads and lane != ran else 0
            assert passed[lane] <= PASSED_BY + 1  # one more where both less urgent lanes are due


def test_sizes_are_counted_for_each_lane(hand: Hand) -> None:
    add(hand, URGENT, NOW, 1, 2)
    hand.add(taken(3, "k3", NORMAL, since=NOW, size=7))
    assert (hand.sizes, hand.lane_bytes) == ([2, 1, 0], [0, 7, 0])
    run_next(hand)
    running = hand.next_ready(NOW)
    assert running is not None
    assert hand.sizes == [1, 1, 0]
    hand.put_back(running)
    assert hand.sizes == [1, 1, 0]
    hand.drop_partition(0)
    assert (hand.size, hand.bytes) == (0, 0)


def test_it_counts_the_urgent_events_that_could_run(hand: Hand) -> None:
    for seq, key in ((1, "a"), (2, "a"), (3, "b"), (4, "c")):
        hand.add(taken(seq, key, URGENT))
    assert [hand.urgent_ready(at_most) for at_most in (0, 2, 9)] == [0, 2, 3]
    hand.next_ready(NOW)
    assert hand.urgent_ready(9) == 2


def test_it_tells_what_an_urgent_event_of_the_same_key_waits_for(hand: Hand) -> None:
    hand.set_bounds(0, [10, 10, 10])
    hand.add(taken(1, "a"))
    hand.add(taken(2, "b"))
    assert hand.next_ready(NOW)
    assert not hand.urgent_behind("a")
    hand.add(taken(11, "a", URGENT))
    assert not hand.urgent_behind("a")
    hand.set_bounds(0, [11, 10, 10])
    assert hand.urgent_behind("a")
    assert not hand.urgent_behind("b")
    assert not hand.urgent_behind("nobody")


def test_without_order_nothing_waits_for_others_to_be_read() -> None:
    hand = Hand(ordered=False)
    hand.add(taken(9, "9", BACKGROUND))
    assert not hand.has_ready()
    hand.set_bounds(0, [3, 2, 1])
    hand.add(taken(8, "8"))
    assert [one and one.event.seq for one in (hand.next_ready(0), hand.next_ready(0))] == [8, 9]


def test_a_lane_is_held_back_where_too_little_was_read_for_too_long(hand: Hand) -> None:
    hand.set_bounds(0, [9, 5, 5])
    hand.add(taken(6, "a", BACKGROUND, since=OLD))
    assert hand.held_back(0, NOW) == BACKGROUND
    assert hand.held_back(0, NOW - 2) is None
    assert hand.held_back(1, NOW) is None
    hand.add(taken(4, "b", BACKGROUND))
    assert hand.held_back(0, NOW) is None  # something of the lane may run
    run_next(hand)
    hand.set_bounds(0, [9, 9, 9])
    assert hand.held_back(0, NOW) is None


def test_urgent_events_are_held_back_at_once(hand: Hand) -> None:
    hand.set_bounds(0, [5, 5, 5])
    hand.add(taken(6, "a", URGENT, since=NOW))
    assert hand.held_back(0, NOW) == URGENT
