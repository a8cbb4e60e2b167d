"""What a reading of the log yields is decoded one event at a time, as it is used."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from spine.codec import FORMAT, Envelope, encode
from spine.events import Context, Event
from spine.log.reader import Batch, Entry


def entry(seq: int, data: bytes | None = None) -> Entry:
    envelope = Envelope(FORMAT, f"e-{seq}", "a.b", "k", "client", {"n": seq}, Context(correlation="c"))
    return seq, "a.b", [f"{seq}-0".encode(), [b"1000", encode(envelope) if data is None else data]]


def test_events_are_decoded_when_they_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch([entry(1), entry(2, b"rubbish"), entry(3)], None)
    with caplog.at_level(logging.WARNING):
        events = iter(batch)
        assert next(events).seq == 1
        assert not caplog.records
        assert [event.seq for event in events] == [3]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_last_one_read_counts_whether_it_was_wanted_or_not() -> None:
    def is_odd(event: Event[Any]) -> bool:
        return event.seq % 2 == 1

    batch = Batch([entry(1), entry(2), entry(3), entry(4)], is_odd)
    assert ([event.seq for event in batch], batch.last) == ([1, 3], 4)
    assert [event.seq for event in batch] == [1, 3], "a batch can be gone through again"
    none = Batch([entry(2)], is_odd)
    assert (list(none), none.last) == ([], 2)
