"""What came of a gather follows from the answers counted alone."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spine import Context, Event
from spine.coordination.answers import Enough
from spine.coordination.gather import outcome
from spine.events import from_ms


def said(place: int, **payload: Any) -> Event[Any]:
    return Event(
        seq=place + 100, id="", type="t", topic="t", key="k", source=f"agent-{place}", payload=payload,
        context=Context(), ts=from_ms(0),
    )  # fmt: skip


@given(st.lists(st.sampled_from(["answered", "failed", "silent"]), max_size=12), st.data())
def test_everybody_asked_is_accounted_for(fates: list[str], data: st.DataObject) -> None:
    needed = data.draw(st.integers(1, len(fates))) if fates else 0
    found = {
        place: (fate == "answered", said(place, error_type="E", error="x"))
        for place, fate in enumerate(fates)
        if fate != "silent"
    }
    result = outcome(["a"] * len(fates), Enough(len(fates), needed), found)
    answered = [place for place, fate in enumerate(fates) if fate == "answered"]
    assert [answer.place for answer in result.answers] == answered
    assert result.partial == (len(answered) < needed)
    whys = {missing.place: missing.why for missing in result.missing}
    silent = "late" if result.partial else "unneeded"
    assert whys == {
        place: "failed" if fate == "failed" else silent for place, fate in enumerate(fates) if fate != "answered"
    }


def test_a_failure_says_what_failed() -> None:
    result = outcome(["a"], Enough(1, 1), {0: (False, said(0, error_type="ValueError", error="no"))})
    assert (result.missing[0].to, result.missing[0].error) == ("a", "ValueError: no")
