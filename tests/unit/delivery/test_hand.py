"""What may run of what a worker has in hand: order per key, lanes, and nothing that could still be overtaken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from taken_events import BACKGROUND, EVERYTHING, NORMAL, URGENT, taken

from spine.delivery.hand import Hand, Taken


def running_in_turn(hand: Hand, now: float = 0.0) -> list[int]:
    """Run everything that may run, one at a time, and return the seqs in that order."""
    order = []
    while (one := hand.next_ready(now)) is not None:
        order.append(one.event.seq)
        hand.finished(one)
    return order


@pytest.fixture
def hand() -> Hand:
    """A hand of which everything has been read."""
    hand = Hand(ageing_s=5.0)
    hand.set_bounds(0, EVERYTHING)
    return hand


def test_the_events_of_a_key_run_one_after_another_however_they_came(hand: Hand) -> None:
    for seq in (3, 1, 2):
        hand.add(taken(seq))
    first = hand.next_ready(0)
    assert first is not None
    assert first.event.seq == 1
    assert hand.next_ready(0) is None
    hand.finished(first)
    assert running_in_turn(hand) == [2, 3]
    assert hand.size == 0


def test_different_keys_run_side_by_side(hand: Hand) -> None:
    for seq, key in ((1, "a"), (2, "b"), (3, "a")):
        hand.add(taken(seq, key))
    running = [hand.next_ready(0), hand.next_ready(0), hand.next_ready(0)]
    assert [one and one.event.seq for one in running] == [1, 2, None]
    assert [one.event.seq for one in hand.running()] == [1, 2]


def test_an_urgent_event_goes_before_earlier_ones_but_not_before_one_that_runs(hand: Hand) -> None:
    hand.add(taken(1))
    running = hand.next_ready(0)
    assert running is not None
    for one in (taken(2), taken(3, lane=BACKGROUND), taken(4, lane=URGENT)):
        hand.add(one)
    assert hand.next_ready(0) is None
    hand.finished(running)
    assert running_in_turn(hand) == [4, 2, 3]


def test_nothing_runs_before_every_stream_that_could_overtake_it_was_read(hand: Hand) -> None:
    hand.set_bounds(0, [10, 5, 5])
    for one in (taken(6, "a"), taken(5, "b"), taken(9, "c", URGENT), taken(11, "d", URGENT)):
        hand.add(one)
    assert running_in_turn(hand) == [9, 5]
    hand.set_bounds(0, [11, 6, 6])
    assert running_in_turn(hand) == [11, 6]


def test_an_urgent_event_does_not_wait_for_others_that_wait_for_their_bound(hand: Hand) -> None:
    hand.set_bounds(0, [50, 50, 50])
    hand.add(taken(60, "a"))
    hand.add(taken(70, "b", URGENT))
    hand.set_bounds(0, [100, 50, 50])
    assert running_in_turn(hand) == [70]


def test_partitions_have_bounds_of_their_own(hand: Hand) -> None:
    hand.set_bounds(0, [1, 1, 1])
    hand.add(taken(2, "a", partition=0))
    hand.add(taken(3, "b", partition=1))
    assert hand.next_ready(0) is None
    hand.set_bounds(1, EVERYTHING)
    assert running_in_turn(hand) == [3]


def test_what_comes_from_the_waiting_list_runs_before_the_rest_of_its_key(hand: Hand) -> None:
    hand.set_bounds(0, [0, 0, 0])
    hand.add(taken(9))
    hand.add(taken(30, source="waiting", order=-2))
    hand.add(taken(20, source="waiting", order=-1))
    assert running_in_turn(hand) == [30, 20]
    hand.set_bounds(0, EVERYTHING)
    assert running_in_turn(hand) == [9]


def test_an_interrupted_event_comes_back_to_its_old_place(hand: Hand) -> None:
    for seq in (1, 2):
        hand.add(taken(seq))
    one = hand.next_ready(0)
    assert one is not None
    hand.put_back(one)
    assert running_in_turn(hand) == [1, 2]
    assert hand.size == 0


def test_an_urgent_event_goes_before_an_interrupted_one(hand: Hand) -> None:
    hand.add(taken(1))
    one = hand.next_ready(0)
    assert one is not None
    hand.add(taken(2, lane=URGENT))
    hand.put_back(one)
    assert running_in_turn(hand) == [2, 1]


def test_withdrawing_a_key_leaves_what_runs_and_what_is_urgent(hand: Hand) -> None:
    for one in (taken(1), taken(2), taken(5, lane=BACKGROUND), taken(3), taken(4, lane=URGENT), taken(9, "other")):
        hand.add(one)
    running = hand.next_ready(0)
    assert running is not None
    assert running.event.seq == 4
    hand.add(taken(6, lane=URGENT))
    assert [one.event.seq for one in hand.withdraw("k")] == [1, 2, 3, 5]
    assert hand.withdraw("k") == []
    assert hand.size == 3
    hand.finished(running)
    assert running_in_turn(hand) == [6, 9]


def test_an_event_can_be_dropped_and_taken_again(hand: Hand) -> None:
    for _ in range(3):
        hand.add(taken(1, since=1.0))
        hand.add(taken(2, since=2.0))
        assert sorted(one.event.seq for one in hand.drop_partition(0)) == [1, 2]
        hand.set_bounds(0, EVERYTHING)
    hand.add(taken(1, since=3.0))
    hand.add(taken(2, since=3.0))
    assert running_in_turn(hand) == [1, 2]


def test_what_ran_when_its_partition_was_dropped_waits_until_that_is_read_again(hand: Hand) -> None:
    hand.add(taken(1, lane=URGENT, partition=1))
    assert hand.withdraw("k") == []  # it is offered a second time
    hand.set_bounds(1, EVERYTHING)
    one = hand.next_ready(0)
    assert one is not None
    hand.drop_partition(1)
    hand.put_back(one)
    assert hand.next_ready(0) is None
    hand.set_bounds(1, EVERYTHING)
    assert running_in_turn(hand) == [1]


def test_dropping_a_partition_keeps_what_runs_until_it_is_finished(hand: Hand) -> None:
    hand.add(taken(1))
    one = hand.next_ready(0)
    assert one is not None
    hand.add(taken(2))
    hand.add(taken(3, "other", partition=1))
    assert [gone.event.seq for gone in hand.drop_partition(0)] == [2]
    assert hand.running(0) == [one]
    assert hand.size == 2
    hand.finished(one)
    assert hand.running(0) == []
    assert hand.size == 1


def test_it_tells_whether_anything_and_anything_urgent_could_run(hand: Hand) -> None:
    assert not hand.has_ready()
    hand.set_bounds(0, [0, 0, 0])
    hand.add(taken(1, "a"))
    assert not hand.has_ready()
    hand.set_bounds(0, EVERYTHING)
    assert hand.has_ready()
    assert hand.urgent_ready(5) == 0
    hand.add(taken(2, "b", URGENT))
    assert hand.urgent_ready(5) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([URGENT, NORMAL, BACKGROUND]))), st.randoms())
def test_every_key_runs_lane_by_lane_in_seq_order(drawn: list[tuple[str, int]], random: Any) -> None:
    hand = Hand(ageing_s=1e9)
    hand.set_bounds(0, EVERYTHING)
    events = [taken(seq, key, lane) for seq, (key, lane) in enumerate(drawn, 1)]
    lanes = {one.event.seq: one.lane for one in events}
    random.shuffle(events)
    for one in events:
        hand.add(one)
    assert running_in_turn(hand) == sorted(lanes, key=lambda seq: (lanes[seq], seq))


class AnyHand(RuleBasedStateMachine):
    """Whatever is done with a hand: one event of a key at a time, in order, none beyond its bound, none lost."""

    events = Bundle("events")

    def __init__(self) -> None:
        super().__init__()
        self.hand = Hand(ageing_s=1e9)
        self.seq = 0
        self.waiting: dict[int, Taken] = {}
        self.running: dict[int, Taken] = {}
        self.bounds = {0: [0, 0, 0], 1: [0, 0, 0]}

    @rule(key=st.sampled_from("abcd"), lane=st.sampled_from([URGENT, NORMAL, BACKGROUND]))
    def add(self, key: str, lane: int) -> None:
        self.seq += 1
        one = taken(self.seq, key, lane, partition=int(key in "cd"))
        self.waiting[one.event.seq] = one
        self.hand.add(one)

    @rule(partition=st.sampled_from([0, 1]), ahead=st.integers(0, 5), behind=st.integers(0, 5))
    def read_on(self, partition: int, ahead: int, behind: int) -> None:
        urgent = max(self.bounds[partition][0], self.seq - ahead)
        normal = min(urgent, max(self.bounds[partition][1], self.seq - ahead - behind))
        background = min(normal, max(self.bounds[partition][2], self.seq - ahead - 2 * behind))
        self.bounds[partition] = [urgent, normal, background]
        self.hand.set_bounds(partition, [urgent, normal, background])

    @rule()
    def start(self) -> None:
        one = self.hand.next_ready(0)
        if one is None:
            for other in self.waiting.values():
                assert not self.may_run(other)
            return
        assert self.may_run(one)
        del self.waiting[one.event.seq]
        self.running[one.event.seq] = one

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        one = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self.hand.finished(one)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        one = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self.waiting[one.event.seq] = one
        self.hand.put_back(one)

    @rule(key=st.sampled_from("abcd"))
    def withdraw(self, key: str) -> None:
        out = [one.event.seq for one in self.hand.withdraw(key)]
        expected = [one for one in self.waiting.values() if one.order_key == key and one.lane != URGENT]
        assert out == [one.event.seq for one in sorted(expected, key=lambda one: (one.lane, one.order))]
        for seq in out:
            del self.waiting[seq]

    @rule(partition=st.sampled_from([0, 1]))
    def drop(self, partition: int) -> None:
        out = {one.event.seq for one in self.hand.drop_partition(partition)}
        assert out == {seq for seq, one in self.waiting.items() if one.partition == partition}
        for seq in out:
            del self.waiting[seq]
        self.bounds[partition] = [0, 0, 0]
        self.hand.set_bounds(partition, [0, 0, 0])

    def may_run(self, one: Taken) -> bool:
        if any(other.order_key == one.order_key for other in self.running.values()):
            return False
        ahead = [other for other in self.waiting.values() if other.order_key == one.order_key]
        if min((other.lane, other.order) for other in ahead) != (one.lane, one.order):
            return False
        return one.order <= self.bounds[one.partition][one.lane]

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        assert self.hand.size == len(self.waiting) + len(self.running)
        assert {one.event.seq for one in self.hand.running()} == set(self.running)


test_any_hand = AnyHand.TestCase


def test_a_key_is_busy_while_one_runs_or_its_waiting_list_is_in_hand(hand: Hand) -> None:
    assert not hand.is_busy_with("k")
    hand.add(taken(1))
    assert not hand.is_busy_with("k")  # it came from a stream: its list may be worked off beside it
    running = hand.next_ready(0)
    assert running is not None
    assert hand.is_busy_with("k")
    hand.finished(running)
    hand.add(taken(2, source="waiting"))
    assert hand.is_busy_with("k")
    hand.withdraw("k")
    assert not hand.is_busy_with("k")


def test_the_bounds_of_a_partition_are_forgotten_with_it(hand: Hand) -> None:
    assert hand.bounds(0) == EVERYTHING
    hand.drop_partition(0)
    assert hand.bounds(0) is None
