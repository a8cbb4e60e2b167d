"""When an event that came with its ring may run: only where it is the next of all that its partition brings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from spine.delivery.leases import Lease
from spine.delivery.partition import Ask, Partition
from spine.keys import Keys
from spine.log.streams import Stream

OURS, URGENT, OTHERS = 1, 2, 3
STREAMS = [Stream(OURS, 1, "a.b"), Stream(URGENT, 0, "a.b")]
READ, MORE = 1, 2
THERE, MADE, NO_STREAM = range(3)


def ring(seq: int, *numbers: int, carries: bool = True) -> list[Any]:
    fields = [b"s", b",".join(b"%d" % number for number in numbers)]
    return [b"%d-0" % seq, [*fields, b"1700", b"data"] if carries else fields]


@pytest.fixture
def partition() -> Partition:
    """A partition of which everything is read."""
    server = SimpleNamespace(keys=Keys("n"))
    streams = SimpleNamespace(key=lambda number, stream: f"log:{number}:{stream.topic}")
    lease = Lease("agent", 3, "lease", 7, True, True)
    partition = Partition(cast(Any, server), cast(Any, streams), lease, lambda topic: 0)
    partition.subscribe(STREAMS, {OTHERS})
    partition.unknown = False
    read(partition, 10)
    return partition


def read(partition: Partition, head: int, *entries: Any, state: int = READ, group: int = THERE) -> None:
    """Read all that has news to its end."""
    ask = partition.ask([9, 9, 9], stalled=False)
    partition.reads(ask, [(group, state, list(entries) or False) for _ in ask.numbers], [], head)


def test_the_event_of_a_lone_ring_comes_next(partition: Partition) -> None:
    assert partition.hear([ring(11, OURS)])
    carried = partition.carried()
    assert carried is not None
    assert (carried.stream.number, carried.key) == (OURS, "log:3:a.b")
    assert carried.entry == [b"11-0", [b"1700", b"data"]]
    partition.brought(carried)
    assert partition.bounds() == [11, 11, 11]
    assert partition.has_news  # it is still to be taken


def test_it_is_no_news_when_its_commit_takes_it(partition: Partition) -> None:
    partition.hear([ring(11, OURS)])
    partition.brought(cast(Any, partition.carried()))
    partition.is_taken(OURS, 11)
    assert not partition.has_news
    partition.hear([ring(12, OURS)])
    partition.brought(cast(Any, partition.carried()))
    partition.hear([ring(13, OURS)])
    assert partition.carried() is None
    partition.is_taken(OURS, 12)
    assert partition.has_news
    assert partition.bounds() == [13 - 1] * 3


@pytest.mark.parametrize(
    "rings",
    [
        pytest.param([ring(11, OURS, carries=False)], id="nothing carried"),
        pytest.param([ring(11, OURS), ring(12, OURS)], id="two of a stream"),
        pytest.param([ring(11, URGENT, carries=False), ring(12, OURS)], id="behind another stream"),
        pytest.param([ring(11, OURS, carries=False), ring(12, OURS)], id="behind its own stream"),
        pytest.param([ring(11, OURS), ring(12, URGENT)], id="before another"),
        pytest.param([ring(11, OTHERS)], id="of others"),
        pytest.param([ring(11, OURS), ring(12, 99)], id="before a topic unknown here"),
        pytest.param([ring(9, OURS)], id="heard before"),
    ],
)
def test_otherwise_everything_is_taken(partition: Partition, rings: list[Any]) -> None:
    partition._heard = "10-0"
    partition.hear(rings)
    assert partition.carried() is None


def test_what_was_rung_before_and_is_not_read_keeps_it_back(partition: Partition) -> None:
    partition.hear([ring(11, OURS, carries=False)])
    partition.hear([ring(12, OURS)])
    assert partition.carried() is None


def test_a_ring_of_others_before_it_is_no_matter(partition: Partition) -> None:
    partition.hear([ring(11, OTHERS), ring(12, OURS)])
    assert partition.carried() is not None


def test_it_is_asked_for_once(partition: Partition) -> None:
    partition.hear([ring(11, OURS)])
    assert partition.carried() is not None
    assert partition.carried() is None


def test_a_take_that_was_faster_leaves_nothing(partition: Partition) -> None:
    partition.hear([ring(11, OURS)])
    ask: Ask = partition.ask([9, 9, 9], stalled=False)
    partition.reads(ask, [(THERE, READ, [[b"11-0", [b"1700", b"data"]]])], [ring(11, OURS)], 11)
    assert partition.carried() is None
    assert not partition.has_news


def test_a_stream_without_a_group_is_left_to_a_take(partition: Partition) -> None:
    partition.subscribe([*STREAMS, Stream(4, 1, "a.new")], {OTHERS})
    read(partition, 10, group=NO_STREAM)
    partition.hear([ring(11, 4)])
    assert partition.carried() is None
    read(partition, 11, [b"11-0", [b"1700", b"data"]], group=MADE)
    partition.hear([ring(12, 4)])
    assert partition.carried() is not None


def test_nothing_comes_next_while_the_topic_list_is_old(partition: Partition) -> None:
    partition.hear([ring(11, OURS)])
    partition.look_everywhere()
    assert partition.carried() is None


def test_what_a_commit_could_not_take_has_to_be_read_before_anything_runs(partition: Partition) -> None:
    partition.hear([ring(11, OURS)])
    partition.brought(cast(Any, partition.carried()))
    partition.is_taken(OURS, 11)
    partition.read_anew()
    assert partition.bounds() == [0, 0, 0]
    read(partition, 12)
    assert partition.bounds() == [12, 12, 12]


def test_a_number_that_became_another_streams_stands_for_that_one(partition: Partition) -> None:
    partition.subscribe([Stream(OURS, 1, "a.other"), Stream(OTHERS, 1, "a.b")], {URGENT})
    assert partition.carried() is None
    assert partition.bounds() == [10, 0, 0]
    read(partition, 10)
    partition.hear([ring(11, OURS)])
    carried = partition.carried()
    assert carried is not None
    assert carried.key == "log:3:a.other"
    assert not partition.hear([ring(12, URGENT)])
