"""From a draft to what is appended: what is filled in, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from spine import Context, Draft, InvalidInput, Priority, TooLarge
from spine.keys import Keys, partition_of
from spine.log.drafts import Drafts, Write


@pytest.fixture
def drafts() -> Drafts:
    return Drafts(Keys("acme"), "shop", 8)


def test_ids_are_unique_and_name_their_producer(drafts: Drafts) -> None:
    ids = {drafts.prepare(Draft("a.b")).envelope.id for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(event_id.startswith(f"{drafts.producer}-") for event_id in ids)
    assert Drafts(Keys("acme"), "shop", 8).producer != drafts.producer


@pytest.mark.parametrize(
    ("draft", "key", "correlation"),
    [
        (Draft("a.b"), None, None),
        (Draft("a.b", key="k"), "k", None),
        (Draft("a.b", context=Context(session_id="s")), "s", None),
        (Draft("a.b", context=Context(correlation="c")), "c", "c"),
        (Draft("a.b", context=Context(correlation="c", session_id="s")), "s", "c"),
        (Draft("a.b", key="k", context=Context(correlation="c", session_id="s")), "k", "c"),
    ],
)
def test_key_and_correlation_where_they_are_left_out(
    drafts: Drafts, draft: Draft, key: str | None, correlation: str | None
) -> None:
    prepared = drafts.prepare(draft)
    event_id = prepared.envelope.id
    assert prepared.envelope.context.correlation == (correlation or event_id)
    assert prepared.envelope.key == (key or event_id)
    assert prepared.partition == partition_of(prepared.envelope.key, 8)


def test_an_inherited_context_serves_where_the_draft_brings_none(drafts: Drafts) -> None:
    inherited = Context(correlation="c", session_id="s", priority=Priority.URGENT)
    assert drafts.prepare(Draft("a.b"), inherited).envelope.context == inherited
    assert drafts.prepare(Draft("a.b", context=Context(correlation="d")), inherited).envelope.context.correlation == "d"


def test_the_lane_is_the_priority_asked_for_or_carried(drafts: Drafts) -> None:
    carried = Context(priority=Priority.BACKGROUND)
    assert drafts.prepare(Draft("a.b")).lane == 1
    assert drafts.prepare(Draft("a.b", context=carried)).lane == 2
    assert drafts.prepare(Draft("a.b", context=carried, priority=Priority.URGENT)).lane == 0
    assert drafts.prepare(Draft("a.b", priority=Priority.URGENT)).envelope.context.priority is Priority.URGENT


def test_the_topic_is_the_type_or_an_inbox(drafts: Drafts) -> None:
    assert drafts.prepare(Draft("a.b")).topic == "a.b"
    assert drafts.prepare(Draft("a.b", to="scheduling")).topic == "@scheduling"


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 3},
        {"context": 7},
        {"key": ""},
        {"key": 7},
        {"to": ""},
        {"dedupe_key": "x" * 300},
        {"payload": None},
    ],
)
def test_what_cannot_be_stored_is_refused(drafts: Drafts, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        drafts.prepare(Draft(**({"type": "a.b"} | fields)))


def test_the_limit_of_an_event_is_the_clients() -> None:
    with pytest.raises(TooLarge):
        Drafts(Keys("acme"), "shop", 8, 100).prepare(Draft("a.b", {"x": "y" * 100}))


def test_a_write_that_names_an_event_moves_with_it() -> None:
    assert Write("SET", "k", "string", seq_of=1).shifted(4).seq_of == 5
    assert Write("SET", "k", "string").shifted(4).seq_of == 0
