"""What a handoff decides: whose hands the work may go to next, and where a sequence goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import HandoffLimit, HandoffLoop, InvalidInput, InvalidName, Sequence
from spine.coordination.handoff import advance, digest, heading, next_hops
from spine.events import Hop, Itinerary


def hop(source: str, to: str, work: str = "w") -> Hop:
    return Hop(source, to, "case.opened", "", work)


def test_the_same_work_goes_to_the_same_agent_once() -> None:
    hops = next_hops((), hop("a", "b"))
    hops = next_hops(hops, hop("b", "a"))
    with pytest.raises(HandoffLoop, match="a → b → a → b"):
        next_hops(hops, hop("a", "b"))


def test_work_that_has_changed_may_come_back() -> None:
    hops = next_hops((hop("a", "b"), hop("b", "a")), hop("a", "b", "changed"))
    assert [h.to for h in hops] == ["b", "a", "b"]


def test_a_chain_ends_at_its_limit() -> None:
    hops: tuple[Hop, ...] = ()
    for number in range(16):
        hops = next_hops(hops, hop("a", "b", str(number)))
    with pytest.raises(HandoffLimit, match="16 hands"):
        next_hops(hops, hop("a", "b", "16"))
    assert len(next_hops(hops, hop("a", "b", "16"), limit=17)) == 17


def test_the_steps_of_a_sequence_neither_loop_nor_count() -> None:
    steps = tuple(Hop("x", "b", "t") for _ in range(40))
    assert len(next_hops(steps, hop("a", "b"))) == 41


def test_a_digest_is_of_the_content_not_of_its_order() -> None:
    one = digest("b", "t", {"x": 1, "y": [1, {"z": 2}]}, {})
    assert one == digest("b", "t", {"y": [1, {"z": 2}], "x": 1}, {})
    assert len({one, digest("c", "t", {}, {}), digest("b", "u", {}, {}), digest("b", "t", {}, {"s": 1})}) == 4


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
def test_a_sequence_visits_its_agents_in_order_and_ends(agents: list[str]) -> None:
    sequence = Sequence(*agents, then="all.done")
    visited, left = [sequence.agents[0]], sequence.rest
    while (step := advance(left, stop=False))[0] is not None:
        visited.append(step[0])
        assert step[1] is not None
        assert step[1].then == "all.done"
        left = step[1]
    assert visited == agents


def test_a_sequence_can_stop_early() -> None:
    assert advance(Itinerary(("b", "c")), stop=True) == (None, None)
    assert advance(None, stop=False) == (None, None)


def test_one_agent_takes_the_place_of_another_in_a_sequence() -> None:
    left = Itinerary(("c",), "all.done")
    assert heading("helper", left) == ("helper", left)
    assert heading("helper", None) == ("helper", None)
    assert heading(Sequence("a", "b"), None) == ("a", Itinerary(("b",)))
    assert heading(Sequence("a", "b"), Itinerary()) == ("a", Itinerary(("b",)))


@pytest.mark.parametrize("left", [Itinerary(("c",)), Itinerary((), "all.done")])
def test_a_sequence_within_a_sequence_is_refused(left: Itinerary) -> None:
    with pytest.raises(InvalidInput, match=r"still to come"):
        heading(Sequence("a", "b"), left)


def test_a_sequence_is_checked_when_it_is_made() -> None:
    with pytest.raises(InvalidInput):
        Sequence()
    with pytest.raises(InvalidName):
        Sequence("Not A Name")
    with pytest.raises(InvalidName):
        Sequence("a", then="spine.done")
