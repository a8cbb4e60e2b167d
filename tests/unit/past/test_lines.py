"""An event as a line of JSON comes back as it was, whatever it holds."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import Context, Event, Hop, InvalidInput, Priority
from spine.codec import decode
from spine.events import Itinerary, ReplyTo, from_ms
from spine.past.lines import from_value, to_line

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["$bytes", "$float", "$dict"]), inner, max_size=3)
    ),
    max_leaves=8,
)
maps = st.dictionaries(st.text(max_size=5) | st.sampled_from(["$bytes", "$float", "$dict"]), values, max_size=3)
contexts = st.builds(
    Context,
    correlation=st.text(min_size=1, max_size=10),
    request=st.none() | maps,
    session_id=st.none() | st.text(min_size=1, max_size=5),
    session=maps,
    session_seq=st.integers(0, 2**53),
    constraints=maps,
    deadline=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    priority=st.sampled_from(Priority),
    path=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    causation=st.none() | st.integers(1, 2**53),
    traceparent=st.none() | st.text(max_size=5),
    reply_to=st.none() | st.builds(ReplyTo, request=st.text(), inbox=st.text(), partition=st.integers(0, 7)),
    waiting=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    handoffs=st.lists(st.builds(Hop, source=st.text(), to=st.text(), type=st.text()), max_size=2).map(tuple),
    sequence=st.none() | st.builds(Itinerary, left=st.lists(st.text(), max_size=2).map(tuple)),
)


def event(payload: dict[str, Any], context: Context) -> Event[Any]:
    return Event(
        seq=7,
        id="p-1",
        type="order.placed",
        topic="@shop",
        key="ключ",
        source="test",
        payload=payload,
        context=context,
        ts=datetime(2026, 11, 20, 9, 30, 0, 123_000, tzinfo=UTC),
        type_version=3,
    )


@given(maps, contexts)
def test_whatever_can_be_stored_comes_back_equal(payload: dict[str, Any], context: Context) -> None:
    original = event(payload, context)
    line = to_line(original)
    assert b"\n" not in line
    found = from_value(json.loads(line))
    assert decode(found.seq, found.topic, from_ms(found.ts_ms), found.data) == original


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_has_not(number: float) -> None:
    found = from_value(json.loads(to_line(event({"n": [number]}, Context(correlation="c")))))
    assert repr(found.envelope.payload["n"][0]) == repr(number)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": "many"},
        {"ts": "yesterday"},
        {"payload": {"x": {"$bytes": "!"}}},
        {"context": {"colour": "red"}},
        {"context": {"causation": "x"}},
        {"payload": 7},
        {"topic": "a:b"},
        {"type": ""},
        {"key": "x" * 300},
        {"seq": -1},
    ],
)
def test_what_is_no_exported_event_is_refused(wrong: dict[str, Any]) -> None:
    value = json.loads(to_line(event({}, Context(correlation="c"))))
    with pytest.raises(InvalidInput):
        from_value(value | wrong)
    value.pop(next(iter(wrong)))
    if "context" not in wrong:
        with pytest.raises(InvalidInput):
            from_value(value)
