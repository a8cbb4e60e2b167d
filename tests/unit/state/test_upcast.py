"""Old payloads become today's, step by step, and what is not known is said."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from spine import Context, DecodeError, Event, InvalidInput, UnknownVersion, upcasts
from spine.catalog import upcast as module
from spine.catalog.types import EventType
from spine.catalog.upcast import today, upcast


@pytest.fixture(autouse=True)
def only_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_upcasters", {})


def event(version: int, payload: dict[str, Any]) -> Event[Any]:
    return Event(
        seq=7,
        id="e",
        type="order.placed",
        topic="order.placed",
        key="k",
        source="test",
        payload=payload,
        context=Context(correlation="c"),
        ts=datetime(2026, 11, 20, tzinfo=UTC),
        type_version=version,
    )


def declare() -> None:
    @upcasts("order.placed", version=1)
    def cents(payload: dict[str, Any]) -> dict[str, Any]:
        payload["cents"] = payload.pop("euros") * 100
        return payload

    @upcasts("order.placed", version=2)
    def lines(payload: dict[str, Any]) -> dict[str, Any]:
        return {"lines": [payload]}


@pytest.mark.parametrize(
    ("version", "payload"), [(1, {"euros": 3}), (2, {"cents": 300}), (3, {"lines": [{"cents": 300}]})]
)
def test_a_payload_of_any_age_becomes_todays(version: int, payload: dict[str, Any]) -> None:
    declare()
    found = upcast(event(version, payload))
    assert (found.payload, found.type_version) == ({"lines": [{"cents": 300}]}, 3)
    assert today("order.placed") == 3
    assert upcast(found) == found


def test_the_event_itself_stays_as_it_was_read() -> None:
    declare()
    original = event(1, {"euros": 3})
    assert upcast(original) == upcast(original)
    assert original.payload == {"euros": 3}


def test_a_newer_version_than_is_known_is_refused() -> None:
    declare()
    with pytest.raises(UnknownVersion, match=r"event 7 has version 4 of 'order\.placed'; the newest known here is 3"):
        upcast(event(4, {}))


def test_the_model_that_it_is_read_as_says_what_is_known_too() -> None:
    class Placed(EventType, name="order.placed", version=4):
        lines: list[Any] = []

    assert upcast(event(4, {}), Placed).type_version == 4
    with pytest.raises(UnknownVersion, match="the newest known here is 4"):
        upcast(event(5, {}), Placed)
    declare()
    assert upcast(event(4, {}), Placed).type_version == 4
    with pytest.raises(UnknownVersion, match="the newest known here is 4"):
        upcast(event(5, {}), Placed)


def test_without_upcasters_nothing_is_known_of_versions() -> None:
    class Placed(BaseModel): ...

    assert upcast(event(9, {})).type_version == 9
    assert upcast(event(9, {}), Placed).type_version == 9
    assert today("order.placed") == 1


def test_a_missing_link_is_named() -> None:
    @upcasts("order.placed", version=2)
    def second(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    with pytest.raises(DecodeError, match="nothing upcasts version 1"):
        upcast(event(1, {}))


@pytest.mark.parametrize("result", [None, RuntimeError("no")])
def test_an_upcaster_that_fails_is_named(result: Any) -> None:
    @upcasts("order.placed", version=1)
    def wrong(payload: dict[str, Any]) -> dict[str, Any]:
        if result is not None:
            raise result
        return result

    with pytest.raises(DecodeError, match="wrong"):
        upcast(event(1, {}))


def test_one_version_is_upcast_once() -> None:
    declare()
    with pytest.raises(InvalidInput, match="cents already"):
        declare()
    with pytest.raises(InvalidInput, match="first version"):
        upcasts("order.placed", version=0)
