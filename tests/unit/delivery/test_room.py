"""How much of each lane a worker takes from its partitions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from taken_events import BACKGROUND, EVERYTHING, NORMAL, URGENT, taken

from spine.delivery.hand import Hand
from spine.delivery.stash import Stash
from spine.worker import room
from spine.worker.room import BEYOND, PAGE, ROUND, Room

PREFETCH = 100


def agency(hand: Hand) -> Any:
    return SimpleNamespace(
        hand=hand,
        agent=SimpleNamespace(prefetch=PREFETCH),
        waiting=0,
        intake=SimpleNamespace(stash=Stash()),
        outcomes=SimpleNamespace(passing=[0, 0, 0]),
    )


def partition(*lanes: int, number: int = 0) -> Any:
    return SimpleNamespace(number=number, lanes_with_news=set(lanes))


@pytest.fixture
def hand() -> Hand:
    hand = Hand()
    hand.set_bounds(0, EVERYTHING)
    return hand


def fill(hand: Hand, lane: int, count: int, **more: Any) -> None:
    for seq in range(lane * 1000, lane * 1000 + count):
        hand.add(taken(seq, f"k{seq}", lane, **more))


def budgets(of: Any, *partitions: Any) -> list[list[int]]:
    return [budget for _, budget in Room(of).budgets(partitions)]


def test_no_lane_takes_the_room_of_another(hand: Hand) -> None:
    fill(hand, NORMAL, PREFETCH)
    assert budgets(agency(hand), partition(URGENT, NORMAL, BACKGROUND)) == [[PREFETCH, 0, PREFETCH]]
    fill(hand, URGENT, PREFETCH)
    assert budgets(agency(hand), partition(URGENT, NORMAL, BACKGROUND)) == [[0, 0, PREFETCH]]


def test_the_room_of_a_lane_is_shared_by_those_with_news_of_it(hand: Hand) -> None:
    shares = budgets(agency(hand), partition(NORMAL), partition(NORMAL, URGENT), partition(URGENT), partition())
    assert shares == [[0, PREFETCH // 2, 0], [PREFETCH // 2, PREFETCH // 2, 0], [PREFETCH // 2, 0, 0]]
    hand_of_one = agency(hand)
    hand_of_one.agent.prefetch = 1
    assert budgets(hand_of_one, partition(NORMAL), partition(NORMAL)) == [[0, 1, 0], [0, 1, 0]]


def test_a_round_is_kept_short(hand: Hand) -> None:
    wide = agency(hand)
    wide.agent.prefetch = 10_000
    assert budgets(wide, partition(NORMAL)) == [[0, ROUND, 0]]
    assert budgets(wide, *[partition(NORMAL)] * 2) == [[0, ROUND // 2, 0]] * 2
    assert budgets(wide, *[partition(NORMAL)] * 64) == [[0, PAGE, 0]] * 64


def test_little_is_not_fetched_while_there_is_something_to_do(hand: Hand) -> None:
    fill(hand, NORMAL, PREFETCH // 2 + 1)
    assert budgets(agency(hand), partition(NORMAL)) == []
    while hand.next_ready(0):
        pass
    assert budgets(agency(hand), partition(NORMAL)) == [[0, PREFETCH // 2 - 1, 0]]


def test_what_passes_through_counts_and_handlers_that_wait_do_not(hand: Hand) -> None:
    busy = agency(hand)
    busy.outcomes.passing[NORMAL] = PREFETCH - 10
    assert budgets(busy, partition(NORMAL, URGENT)) == [[PREFETCH, 10, 0]]
    busy.waiting = 20
    assert budgets(busy, partition(NORMAL)) == [[0, 30, 0]]


def test_bytes_fill_a_lane_as_well(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "HAND_BYTES", 10)
    fill(hand, NORMAL, 2, size=6)
    assert budgets(agency(hand), partition(URGENT, NORMAL)) == [[PREFETCH, 0, 0]]


def test_more_urgent_ones_are_read_on_for_the_sake_of_one_that_waits_too_long(hand: Hand) -> None:
    fill(hand, URGENT, PREFETCH)
    assert budgets(agency(hand), partition(URGENT)) == []
    hand.set_bounds(0, [1000, 10, 10])
    hand.add(taken(20, "old", NORMAL, since=0.0))
    assert budgets(agency(hand), partition(URGENT), partition(URGENT, number=1)) == [[PAGE, 0, 0]]
    fill(hand, URGENT, BEYOND * PREFETCH)
    assert budgets(agency(hand), partition(URGENT)) == []


def test_what_is_stashed_takes_room(hand: Hand) -> None:
    worker = agency(hand)
    for seq in range(40):
        worker.intake.stash.add(taken(seq))
    assert budgets(worker, partition(NORMAL)) == [[0, PREFETCH - 40, 0]]
