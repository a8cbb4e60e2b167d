"""When enough have answered, and what is made of what they said."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import InvalidInput
from spine.coordination.answers import Answer, Enough, best, collect, enough, majority
from spine.coordination.fanout import Options, questions, spread


def said(*payloads: dict[str, object]) -> list[Answer]:
    return [Answer(place=place, source="a", payload=payload, seq=place + 1) for place, payload in enumerate(payloads)]


@given(asked=st.integers(0, 30), data=st.data())
def test_the_wait_ends_exactly_when_the_outcome_is_certain(asked: int, data: st.DataObject) -> None:
    quorum = data.draw(st.none() | st.integers(1, asked)) if asked else None
    rule = enough(asked, quorum, None)
    fates = data.draw(st.lists(st.booleans(), min_size=asked, max_size=asked))
    wanted = asked if quorum is None else quorum
    for settled in range(asked + 1):
        answered = sum(fates[:settled])
        failed = settled - answered
        standing = rule.standing(answered, failed)
        if answered >= wanted:
            assert standing == "met"
        elif settled == asked or (quorum is not None and failed > asked - wanted):
            assert standing == "short"
        else:
            assert standing == "open"
    assert rule.standing(sum(fates), asked - sum(fates)) != "open"


def test_first_ends_the_wait() -> None:
    assert enough(5, None, True) == Enough(5, 1)
    pleasing = enough(5, None, lambda answer: True)
    assert pleasing.standing(4, 0) == "open"
    assert pleasing.standing(4, 0, pleased=True) == "met"
    assert pleasing.standing(3, 2) == "short"
    assert enough(0, None, lambda answer: True).standing(0, 0) == "met"


def test_so_many_may_be_the_first_as_there_are() -> None:
    assert enough(5, None, 3) == Enough(5, 3)
    assert enough(2, None, 3) == Enough(2, 2)
    assert enough(0, None, 3).standing(0, 0) == "met"
    assert enough(5, 2, False) == enough(5, 2, None)


@pytest.mark.parametrize(("first", "quorum"), [(0, None), (-1, None), (2.5, None), ("all", None), (True, 3), (2, 3)])
def test_what_first_cannot_mean_is_refused(first: Any, quorum: int | None) -> None:
    with pytest.raises(InvalidInput, match=r"first is True, or how many.*Nothing was asked"):
        enough(5, quorum, first)


@pytest.mark.parametrize("quorum", [0, 6, -1, 2.5, "all"])
def test_a_quorum_fits_what_is_asked(quorum: Any) -> None:
    with pytest.raises(InvalidInput, match="between 1 and the 5"):
        enough(5, quorum, None)


def test_best_takes_the_highest_number_and_the_earlier_of_equals() -> None:
    answers = said({"confidence": 0.4}, {"confidence": 0.9, "n": 1}, {"confidence": 0.9, "n": 2}, {"confidence": "1"})
    chosen = best()(answers)
    assert chosen is not None
    assert chosen.payload["n"] == 1
    assert best("price")(answers) is None
    assert best()(said({"confidence": float("nan")}, {"confidence": True})) is None


def test_a_majority_is_more_than_half_of_those_who_answered() -> None:
    assert majority("v")(said({"v": "a"}, {"v": "b"}, {"v": "a"})) == "a"
    assert majority("v")(said({"v": "a"}, {"v": "b"})) is None
    assert majority("v", share=0.3)(said({"v": ["x"]}, {"v": "b"}, {"v": ["x"]}, {"v": "c"})) == ["x"]
    assert majority("v")([]) is None


def test_collect_keeps_the_order() -> None:
    assert collect(said({"n": 1}, {"n": 2})) == [{"n": 1}, {"n": 2}]


def test_several_items_get_a_key_each_and_several_agents_one() -> None:
    over_items = questions("t", [{"sku": 7}, {"sku": 8}], Options(), base="s-1")
    assert [q.draft.key for q in over_items] == ["s-1/0", "s-1/1"]
    to_agents = questions("t", {"sku": 7}, Options(to=["a", "b"]), base="s-1")
    assert [(q.draft.key, q.draft.to) for q in to_agents] == [("s-1", "a"), ("s-1", "b")]
    by_item = questions("t", [{"sku": 7}, {"sku": 8}], Options(key=lambda item: f"sku-{item['sku']}"), base="s-1")
    assert [q.draft.key for q in by_item] == ["sku-7", "sku-8"]
    one_key = questions("t", iter([{"sku": 7}, {"sku": 8}]), Options(key="k", to="a"), base="s-1")
    assert [(q.draft.key, q.draft.to) for q in one_key] == [("k", "a"), ("k", "a")]
    with pytest.raises(InvalidInput):
        questions("t", [{"sku": 7}], Options(to=["a", "b"]), base="s-1")


@given(
    st.text(min_size=1, max_size=256).filter(lambda t: len(t.encode("utf-8", "ignore")) <= 256), st.integers(0, 9999)
)
def test_a_key_of_its_own_is_never_too_long(base: str, place: int) -> None:
    assert len(spread(base, place).encode()) <= 256
    assert spread(base, place) != spread(base, place + 1)
