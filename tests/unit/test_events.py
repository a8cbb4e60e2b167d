"""`Event` and `Context` as the public sees them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from spine import Context, Event, Priority
from spine.events import PATH_KEPT, Hop, Itinerary, ReplyTo, caused_by, context_to_dict, from_ms, to_ms

NOW = datetime(2026, 11, 3, 9, 30, 0, 250_000, UTC)


def event(**fields: Any) -> Event[Any]:
    values: dict[str, Any] = {
        "seq": 7,
        "id": "p-1",
        "type": "order.placed",
        "topic": "order.placed",
        "key": "c-1",
        "source": "shop",
        "payload": {"sku": 7},
        "context": Context(correlation="c"),
        "ts": NOW,
    }
    return Event(**(values | fields))


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        event().seq = 8  # type: ignore[misc]
    with pytest.raises(AttributeError):
        event().context.correlation = "d"  # type: ignore[misc]


def test_events_are_equal_when_every_field_is_and_can_be_kept_in_sets() -> None:
    assert event() == event()
    assert event() != event(payload={"sku": 8})
    assert event() != event(context=Context(correlation="d"))
    assert len({event(), event(), event(seq=8)}) == 2


def test_a_validated_model_takes_the_place_of_the_dict() -> None:
    class Order(BaseModel):
        sku: int

    typed = event().with_payload(Order(sku=7))
    assert typed.payload.sku == 7
    assert typed.to_dict()["payload"] == {"sku": 7}
    assert (typed.seq, typed.context) == (7, event().context)


def test_an_event_as_plain_values_goes_into_json() -> None:
    context = Context(
        correlation="c",
        deadline=NOW,
        priority=Priority.URGENT,
        path=("a",),
        reply_to=ReplyTo(request="r", inbox="secret", partition=1),
    )
    shown = json.loads(json.dumps(event(context=context).to_dict()))
    assert shown == {
        "seq": 7,
        "id": "p-1",
        "type": "order.placed",
        "topic": "order.placed",
        "key": "c-1",
        "source": "shop",
        "payload": {"sku": 7},
        "context": {
            "correlation": "c",
            "deadline": "2026-11-03T09:30:00.250000Z",
            "priority": 0,
            "path": ["a"],
            "reply_to": True,
        },
        "ts": "2026-11-03T09:30:00.250000Z",
        "type_version": 1,
    }


def test_a_context_shows_only_what_is_set() -> None:
    assert context_to_dict(Context()) == {}
    assert context_to_dict(Context(session={"a": 1})) == {"session": {"a": 1}}


def test_a_changed_context_is_another_one() -> None:
    first = Context(correlation="c")
    assert first.replace(session_id="s") == Context(correlation="c", session_id="s")
    assert first == Context(correlation="c")


def test_times_are_whole_milliseconds_and_aware() -> None:
    assert from_ms(1_793_698_200_250) == NOW
    assert to_ms(NOW) == event().ts_ms == 1_793_698_200_250
    for ms in range(1_793_698_200_000, 1_793_698_200_999, 7):
        assert to_ms(from_ms(ms)) == ms


def test_what_an_event_causes_keeps_its_context_but_for_what_is_the_events_own() -> None:
    context = Context(
        correlation="c",
        request={"seq": 1, "type": "asked", "payload": {}},
        session_id="s",
        session={"turn": 3},
        session_seq=4,
        constraints={"budget": 5},
        deadline=NOW,
        priority=Priority.URGENT,
        path=("inquiry",),
        causation=2,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        reply_to=ReplyTo("r", "i", 0),
        waiting=("inquiry/c-1",),
        handoffs=(Hop("inquiry", "shop", "order.placed"),),
        sequence=Itinerary(("shop",)),
    )
    assert all(getattr(context, name) != getattr(Context(), name) for name in Context.__struct_fields__)
    caused = caused_by(event(context=context), "shop")
    own = {"reply_to": None, "waiting": (), "handoffs": (), "sequence": None}
    assert caused == context.replace(causation=7, path=("inquiry", "shop"), **own)


def test_the_first_event_is_the_request_of_all_that_it_causes_and_the_path_stays_bounded() -> None:
    first = event(context=Context(correlation="c", path=("loop",) * 200))
    caused = caused_by(first, "shop", priority=Priority.BACKGROUND)
    assert caused.request == {"seq": 7, "type": "order.placed", "payload": {"sku": 7}}
    assert caused.priority is Priority.BACKGROUND
    assert len(caused.path) == PATH_KEPT + 1
