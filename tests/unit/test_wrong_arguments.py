"""Values of a wrong type are refused at the door with an error of ours, before anything is stored."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spine import Context, Draft, InvalidContext, InvalidInput, InvalidName, InvalidPayload, Misconfigured, Spine


@pytest.mark.parametrize("event_type", [None, 5, b"a.b"])
async def test_a_type_that_is_no_name_is_refused(event_type: Any) -> None:
    async with Spine("memory://wrong-type", namespace="acme") as spine:
        with pytest.raises(InvalidName):
            await spine.publish(event_type, {})


@pytest.mark.parametrize("delay", ["soon", math.nan, timedelta.max])
async def test_a_delay_that_is_no_duration_is_refused(delay: Any) -> None:
    async with Spine("memory://wrong-delay", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match=r"delay is a number of seconds or a timedelta.*Nothing was stored"):
            await spine.schedule("a.b", {}, delay=delay)


async def test_a_batch_of_anything_but_drafts_is_refused_whole() -> None:
    wrong: Any = [Draft("a.b", {}), {"type": "a.b"}]
    async with Spine("memory://wrong-draft", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match=r"Drafts, not dict.*Nothing was stored"):
            await spine.publish_many(wrong)
        assert await spine.history() == []


@pytest.mark.parametrize("moment", ["yesterday", timedelta(minutes=5), 1.5])
async def test_a_moment_that_is_neither_seq_nor_time_is_refused(moment: Any) -> None:
    async with Spine("memory://wrong-moment", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="a seq or a datetime"):
            await spine.history(since=moment)
        with pytest.raises(InvalidInput, match="a seq or a datetime"):
            await anext(spine.replay(after=moment))


async def test_a_callback_that_cannot_be_called_is_refused() -> None:
    wrong: Any = 5
    async with Spine("memory://wrong-callback", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="callback"):
            await spine.subscribe("a.*", wrong)


@pytest.mark.parametrize("payload", [[], (), [("a", 1)], "text", 5])
async def test_a_payload_that_is_no_map_is_refused(payload: Any) -> None:
    async with Spine("memory://wrong-payload", namespace="acme") as spine:
        with pytest.raises(InvalidPayload, match=r"must be a dict.*Nothing was stored"):
            await spine.publish("a.b", payload)


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({"order": {"lines": [1, 2**64]}}, r"payload\.order\.lines\[1\]"),
        ({"order": {"note": "\ud800"}}, r"payload\.order\.note"),
        ({"order": {"\ud800": 1}}, r"the name '\\ud800' in payload\.order"),
    ],
)
async def test_what_cannot_be_stored_is_named(payload: Any, where: str) -> None:
    async with Spine("memory://unstorable", namespace="acme") as spine:
        with pytest.raises(InvalidPayload, match=where):
            await spine.publish("a.b", payload)


@pytest.mark.parametrize(
    ("field", "value"),
    [("path", [1]), ("causation", "x"), ("session", None), ("traceparent", "\ud800"), ("priority", 9)],
)
async def test_a_field_of_the_context_that_cannot_be_stored_is_named(field: str, value: Any) -> None:
    context = Context(correlation="c").replace(**{field: value})
    async with Spine("memory://wrong-context", namespace="acme") as spine:
        with pytest.raises(InvalidContext, match=rf"context\.{field}"):
            await spine.publish("a.b", {}, context=context)


async def test_a_session_id_is_checked_beside_a_key_as_well() -> None:
    async with Spine("memory://wrong-session", namespace="acme") as spine:
        with pytest.raises(InvalidName, match="session id"):
            await spine.publish("a.b", {}, key="k", context=Context(session_id="x" * 257))


@pytest.mark.parametrize("changes", [{"": 1}, {"\0cause": 1}, 5])
async def test_changes_of_a_session_are_fields_with_names(changes: Any) -> None:
    async with Spine("memory://wrong-fields", namespace="acme") as spine:
        with pytest.raises(InvalidPayload):
            await spine.update_session("s-1", changes)


@pytest.mark.parametrize("moment", ["soon", 5, datetime.max, datetime.max.replace(tzinfo=UTC), datetime.min])
async def test_a_time_that_nothing_can_be_scheduled_at_is_refused(moment: Any) -> None:
    async with Spine("memory://wrong-at", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="Nothing was stored"):
            await spine.schedule("a.b", {}, at=moment)


@pytest.mark.parametrize("limit", [0, -1, "5", 1.5, None, True])
async def test_a_limit_that_is_no_number_of_events_is_refused(limit: Any) -> None:
    async with Spine("memory://wrong-limit", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="limit"):
            await spine.history(limit=limit)


async def test_types_that_are_no_names_are_refused() -> None:
    wrong: Any = 5
    async with Spine("memory://wrong-types", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="types"):
            await spine.history(types=wrong)


async def test_a_batch_may_be_made_on_the_way() -> None:
    async with Spine("memory://made-batch", namespace="acme") as spine:
        stored = await spine.publish_many(Draft("a.b", {"number": number}) for number in range(3))
        assert [event.payload["number"] for event in stored] == [0, 1, 2]
        assert await spine.publish_many([]) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("partitions", value) for value in (0, -1, 1.5, "8", True, 70_000)),
        *(("max_event_bytes", value) for value in (0, "5", 1.5, None)),
        *(("patience_s", value) for value in ("x", None, math.nan)),
        ("durability", "most"),
    ],
)
def test_a_setting_of_the_client_that_is_none_is_refused_before_it_is_opened(setting: str, value: Any) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(InvalidInput):
        Spine("memory://wrong-setting", namespace="acme", **settings)


@pytest.mark.parametrize("url", ["redis://127.0.0.1/first", "redis://127.0.0.1?colour=red", 5])
async def test_a_url_that_no_connection_can_be_made_of_is_refused(url: Any) -> None:
    with pytest.raises((Misconfigured, InvalidInput)):
        await Spine(url, namespace="acme").open()


async def test_an_empty_url_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINE_URL", "")
    assert Spine(namespace="acme")._url is None


async def test_a_value_that_is_refused_is_not_shown_whole() -> None:
    async with Spine("memory://long", namespace="acme") as spine:
        with pytest.raises(InvalidName) as refused:
            await spine.publish("a.b", {}, key="k" * 1_000_000)
        assert len(str(refused.value)) < 1_000
