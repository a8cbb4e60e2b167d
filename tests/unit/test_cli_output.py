"""Tables for people: what is cut where there is little room, and what may be typed in again."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
from rich.console import Console

from spine.cli import output
from spine.cli.options import Format
from spine.cli.output import event_header, event_line, write_rows
from spine.events import Context, Event

EVENT = Event(
    seq=1_234_567,
    id="a-1",
    type="requirement.complete.of.a.long.kind",
    topic="requirement.complete.of.a.long.kind",
    key="conversation-1234567",
    source="inquiry",
    ts=datetime(2026, 11, 27, 12, 0, tzinfo=UTC),
    payload={"room": "Ada"},
    context=Context(correlation="c-1"),
)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_every_column_and_some_of_the_payload_are_seen_in_any_terminal(width: int) -> None:
    header, line = event_header(width).plain, event_line(EVENT, width).plain
    assert header.split() == ["SEQ", "TIME", "TYPE", "KEY", "SOURCE", "PAYLOAD"]
    assert header.index("PAYLOAD") < width - 10
    seen = line[:width]
    assert all(part in seen for part in ("1234567", "requirement.com", "conversat", "inquiry", '{"room"'))


def test_a_table_that_is_too_wide_becomes_a_line_for_each_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"agent": "scheduling", "pid": 12345, "lag": 12345}]
    for width, shown in ((16, ["AGENT  scheduling", "PID    12345", "LAG    12,345"]), (40, None)):
        monkeypatch.setattr(output, "stdout", partial(Console, width=width))
        write_rows(rows, ("agent", "pid", "lag"), Format.TABLE)
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line]
        assert lines == (shown or ["AGENT       PID    LAG", "scheduling  12345  12,345"])
