"""The wire format: everything written is read back equal; nothing else is read at all."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from spine.codec import (
    DEFAULT_MAX_BYTES,
    HARD_MAX_BYTES,
    Envelope,
    check_context,
    decode,
    decode_entry,
    encode,
    normalise_payload,
    seal,
    unsealed,
)
from spine.errors import DecodeError, InvalidContext, InvalidPayload, TooLarge, UnknownVersion
from spine.events import Context, Event, Priority, ReplyTo

NOW = datetime(2026, 11, 3, 9, 30, 0, 250_000, UTC)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=20
)
maps = st.dictionaries(text, values, max_size=5)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))
contexts = st.builds(
    Context,
    correlation=text,
    request=st.none() | maps,
    session_id=st.none() | text,
    session=maps,
    session_seq=st.integers(0, 2**53),
    constraints=maps,
    deadline=st.none() | moments,
    priority=st.sampled_from(Priority),
    path=st.lists(text, max_size=4).map(tuple),
    causation=st.none() | st.integers(0, 2**53),
    traceparent=st.none() | text,
    reply_to=st.none() | st.builds(ReplyTo, request=text, inbox=text, partition=st.integers(0, 7)),
)


def envelope(payload: dict[str, Any], context: Context | None = None, **fields: Any) -> Envelope:
    parts: dict[str, Any] = {"id": "p-1", "type": "order.placed", "key": "k", "source": "shop"} | fields
    return Envelope(
        format=1, payload=payload, context=Context(correlation="c") if context is None else context, **parts
    )


def read(raw: bytes) -> Event[Any]:
    return decode(7, "order.placed", NOW, raw)


def signed(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big") + body


def written(
    *, payload: Any, context: Any = None, head: tuple[Any, ...] = (1, "p-1", "order.placed", "k", "s")
) -> bytes:
    """An entry as another program could write it."""
    body: bytes = msgpack.packb([*head, payload, [] if context is None else context, 1], datetime=True)
    return signed(body)


@given(maps, contexts)
def test_what_is_written_is_read_back_equal(payload: dict[str, Any], context: Context) -> None:
    event = read(encode(envelope(payload, context)))
    assert event.payload == payload
    assert event.context == context
    assert (event.seq, event.id, event.type, event.key, event.source) == (7, "p-1", "order.placed", "k", "shop")
    assert (event.topic, event.ts, event.type_version) == ("order.placed", NOW, 1)


@given(maps, contexts)
def test_any_msgpack_library_reads_it(payload: dict[str, Any], context: Context) -> None:
    raw = encode(envelope(payload, context))
    assert zlib.crc32(raw[4:]) == int.from_bytes(raw[:4], "big")
    version, event_id, event_type, key, source, found, carried, type_version = msgpack.unpackb(raw[4:], timestamp=3)
    assert (version, event_id, event_type, key, source, type_version) == (1, "p-1", "order.placed", "k", "shop", 1)
    assert found == payload
    assert carried[0] == context.correlation
    assert carried[6] == context.deadline


@given(maps, contexts)
def test_sealing_gives_what_a_reader_will_see(payload: dict[str, Any], context: Context) -> None:
    seen, raw = seal(envelope(payload, context))
    event = read(raw)
    assert (seen.payload, seen.context) == (event.payload, event.context) == (payload, context)
    assert unsealed(raw) == seen


def test_sealing_shares_nothing_with_what_was_given() -> None:
    payload: dict[str, Any] = {"a": {"b": [1]}}
    context = Context(session={"a": [1]}, constraints={"b": {"c": 1}}, request={"payload": {"d": 1}})
    for extra in ({}, {"raw": b"x"}, {"tuple": (1,)}, nested(20)):
        seen, _ = seal(envelope(payload | extra, context))
        assert seen.payload["a"] is not payload["a"]
        assert seen.context.session["a"] is not context.session["a"]
        assert seen.context.constraints["b"] is not context.constraints["b"]
        assert seen.context.request is not context.request


@given(maps)
def test_a_payload_is_seen_by_its_publisher_as_by_its_readers(payload: dict[str, Any]) -> None:
    assert normalise_payload(payload) == payload == read(encode(envelope(normalise_payload(payload)))).payload


def test_a_payload_is_a_copy_all_the_way_down() -> None:
    given_payload = {"a": {"b": [1, {"c": 2}]}}
    kept = normalise_payload(given_payload)
    given_payload["a"]["b"][1]["c"] = 3  # type: ignore[index]
    assert kept == {"a": {"b": [1, {"c": 2}]}}


def test_tuples_become_lists_and_models_what_they_dump_to() -> None:
    class Item(BaseModel):
        sku: str
        due: datetime

    assert normalise_payload({"a": (1, (2,))}) == {"a": [1, [2]]}
    assert normalise_payload(Item(sku="x", due=NOW)) == {"sku": "x", "due": "2026-11-03T09:30:00.250000Z"}


def test_text_and_numbers_of_a_subclass_are_stored_as_what_they_are() -> None:
    class Safe(str):
        def __str__(self) -> str:
            return "what a template makes of it"

    class Count(int):
        pass

    class Share(float):
        pass

    given_payload = {"text": Safe("<b>"), "n": [Count(4)], "part": {"share": Share(0.5)}, Safe("name"): b"raw"}
    plain = {"text": "<b>", "n": [4], "part": {"share": 0.5}, "name": b"raw"}
    for kept in (seal(envelope(given_payload))[0].payload, normalise_payload(given_payload)):
        assert kept == plain
        assert [type(kept["text"]), type(kept["n"][0]), type(kept["part"]["share"])] == [str, int, float]
    with pytest.raises(InvalidPayload, match=r"payload\.n cannot be stored"):
        seal(envelope({"n": Count(2**64)}))


def nested(levels: int, inner: Any = 1) -> Any:
    value = inner
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({"when": NOW}, r"payload\.when is a datetime"),
        ({"a": [1, {"b": {1, 2}}]}, r"payload\.a\[1\]\.b is a set"),
        ({"a": {1: 2}}, r"payload\.a: the name 1 is not a string"),
        ({1: 2}, "the name 1 is not a string"),
        ({"a": {b"x": 2}}, "is not a string"),
        ({"a": object()}, "is a object"),
        ({"a": 2**64}, "cannot be stored"),
        ({"a": -(2**63) - 1}, "cannot be stored"),
        ({"a": "\ud800"}, "cannot be stored"),
        (nested(33), "deeper than 32"),
        ([1], "must be a dict"),
        ("text", "must be a dict"),
        (7, "must be a dict"),
        ({"a": timedelta(1)}, "is a timedelta"),
        ({"a": Context()}, "is a Context"),
        ({"a": 1 + 2j}, "is a complex"),
    ],
)
def test_a_payload_that_cannot_be_stored_is_refused_by_the_name_of_its_field(payload: Any, complaint: str) -> None:
    with pytest.raises(InvalidPayload, match=complaint) as refusal:
        normalise_payload(payload)
    assert "Nothing was stored" in str(refusal.value)
    assert refusal.value.stored is False
    if isinstance(payload, dict):
        with pytest.raises(InvalidPayload, match=complaint):
            seal(envelope(payload))


def test_a_payload_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(InvalidPayload, match="deeper than 32"):
        normalise_payload(loop)


def test_32_levels_are_written_and_read() -> None:
    payload = nested(32)
    assert read(encode(envelope(normalise_payload(payload)))).payload == payload


@pytest.mark.parametrize(
    ("context", "complaint"),
    [
        (Context(session={"a": {1, 2}}), r"context\.session\.a is a set"),
        (Context(constraints={"a": object()}), r"context\.constraints\.a is a object"),
        (Context(request={"a": {1: 2}}), r"context\.request\.a: the name 1"),
        (Context(session=nested(33)), "deeper than 32"),
        (Context(deadline=datetime(2026, 1, 1)), "aware datetime"),
        (Context(correlation=7), "cannot be stored"),  # type: ignore[arg-type]
        (Context(priority=9), "cannot be stored"),  # type: ignore[arg-type]
        (Context(path=("a", 1)), "cannot be stored"),  # type: ignore[arg-type]
        (Context(session="text"), "cannot be stored"),  # type: ignore[arg-type]
        ("text", "must be a Context"),
        ({"correlation": "c"}, "must be a Context"),
    ],
)
def test_a_context_that_cannot_be_stored_is_refused(context: Any, complaint: str) -> None:
    with pytest.raises(InvalidContext, match=complaint) as refusal:
        check_context(context)
    assert refusal.value.stored is False
    with pytest.raises(InvalidContext, match=complaint):
        seal(envelope({}, context))


def test_a_context_is_a_copy_as_readers_will_see_it() -> None:
    session: dict[str, Any] = {"slots": {"city": "Ulm"}}
    deadline = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    kept = check_context(Context(session=session, deadline=deadline, path=["a"]))  # type: ignore[arg-type]
    session["slots"]["city"] = "Bonn"
    assert kept == Context(session={"slots": {"city": "Ulm"}}, deadline=deadline, path=("a",))
    assert kept == read(encode(envelope({}, kept))).context


def test_an_event_over_the_limit_is_refused_and_told_its_size() -> None:
    with pytest.raises(TooLarge, match=r"has 262,\d+ bytes; the limit is 262,144") as refusal:
        encode(envelope({"text": "x" * DEFAULT_MAX_BYTES}))
    assert refusal.value.stored is False
    checksum, longer_length_field = 4, 4
    most = DEFAULT_MAX_BYTES - (len(encode(envelope({"text": ""}))) - checksum) - longer_length_field
    assert len(encode(envelope({"text": "x" * most}))) == DEFAULT_MAX_BYTES + checksum
    with pytest.raises(TooLarge):
        encode(envelope({"text": "x" * (most + 1)}))


def sample() -> bytes:
    context = Context(correlation="c", session={"a": [1, {"b": 2.5}]}, deadline=NOW, path=("x",), causation=3)
    return encode(envelope({"text": "hello", "list": [1, None, True], "raw": b"\0\1", "map": {"k": -1}}, context))


def test_every_truncation_is_an_error() -> None:
    raw = sample()
    for length in range(len(raw)):
        with pytest.raises(DecodeError):
            read(raw[:length])


def test_every_flipped_bit_is_an_error() -> None:
    raw = sample()
    for place in range(len(raw)):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[place] ^= 1 << bit
            with pytest.raises(DecodeError):
                read(bytes(damaged))


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_an_error_even_with_a_valid_checksum(body: bytes, is_signed: bool) -> None:
    with pytest.raises(DecodeError):
        read(signed(body) if is_signed else body)


@settings(max_examples=500)
@given(st.data())
def test_a_damaged_body_with_a_valid_checksum_gives_an_event_or_an_error_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(sample()[4:])
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        repr(read(signed(bytes(body))))


@pytest.mark.parametrize(
    "raw",
    [
        written(payload=[]),
        written(payload=None),
        written(payload={1: 2}),
        written(payload={b"x": 2}),
        written(payload={}, context={}),
        written(payload={}, context=[7]),
        written(payload={}, context=["c", None, None, {}, 0, {}, None, 3]),
        written(payload={}, head=(1, "p-1", "order.placed", "k")),
        written(payload={}, head=(1, None, "order.placed", "k", "s")),
        written(payload={"a": msgpack.ExtType(5, b"x")}),
        written(payload={"a": NOW}),
        written(payload={"a": {1: 2}}),
        written(payload={}, context=["c", {"a": msgpack.ExtType(5, b"x")}]),
        signed(msgpack.packb({"format": 1})),
        signed(msgpack.packb(1)),
        signed(b""),
        sample() + b"\0",
    ],
)
def test_what_is_not_of_the_format_is_an_error(raw: bytes) -> None:
    with pytest.raises(DecodeError) as error:
        read(raw)
    assert not isinstance(error.value, UnknownVersion)


@pytest.mark.parametrize("where", ["payload", "session", "constraints", "request"])
@pytest.mark.parametrize("levels", [33, 200, 1_000, 5_000, 100_000])
@pytest.mark.parametrize("opening", [b"\x81\xa1a", b"\x91"])
def test_a_depth_bomb_is_an_error_wherever_it_sits(where: str, levels: int, opening: bytes) -> None:
    bomb = b"\x81\xa1a" + opening * (levels - 1) + b"\x01"
    context = [b"\xa1c", b"\xc0", b"\xc0", b"\x80", b"\x00", b"\x80"]
    if where != "payload":
        context[{"request": 1, "session": 3, "constraints": 5}[where]] = bomb
    payload = bomb if where == "payload" else b"\x80"
    body = b"\x97\x01\xa1i\xa1t\xa1k\xa1s" + payload + b"\x96" + b"".join(context)
    with pytest.raises(DecodeError):
        read(signed(body))


def test_a_length_that_promises_more_than_there_is_allocates_nothing() -> None:
    for opening in (b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        body = b"\x97\x01\xa1i\xa1t\xa1k\xa1s\x81\xa1a" + opening
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                read(signed(body))
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()


def test_an_entry_over_the_hard_limit_is_not_even_unpacked() -> None:
    raw = written(payload={"a": [{}] * (HARD_MAX_BYTES + 1)})
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="over the limit"):
            read(raw)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_worst_entry_within_the_limit_takes_bounded_memory() -> None:
    raw = written(payload={"a": [{}] * (HARD_MAX_BYTES - 100)})
    tracemalloc.start()
    try:
        read(raw)
        assert tracemalloc.get_traced_memory()[1] < 128 * HARD_MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [[2, "anything"], [2, "p", "t", "k", "s", {}, [], 1], [99]])
def test_a_newer_format_is_named_as_such(body: list[Any]) -> None:
    with pytest.raises(UnknownVersion, match=r"has format \d+; this version reads 1"):
        read(signed(msgpack.packb(body)))


def test_fields_that_a_later_version_appends_are_passed_over() -> None:
    body = msgpack.packb([1, "p", "t", "k", "s", {"a": 1}, ["c"], 1, "new", {"also": "new"}])
    assert read(signed(body)).payload == {"a": 1}


def test_an_entry_holds_one_field_named_by_its_time() -> None:
    event = decode_entry("order.placed", [b"12-0", [b"1793698200250", sample()]])
    assert (event.seq, event.ts) == (12, NOW)


@pytest.mark.parametrize(
    "entry",
    [
        [b"12-1", [b"1", sample()]],
        [b"1793698200250-0", [b"field", b"value"]],
        [b"12-0", [b"field", sample()]],
        [b"12-0", [b"9" * 30, sample()]],
        [b"12-0", [b"1", sample(), b"2", sample()]],
        [b"12-0", []],
        [b"12-0", None],
    ],
)
def test_a_stray_entry_is_an_error(entry: list[Any]) -> None:
    with pytest.raises(DecodeError):
        decode_entry("order.placed", entry)
