"""How points of the log are written on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from spine.cli.options import moment, split

NOW = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1200", 1200),
        ("now", NOW),
        ("-2h", NOW - timedelta(hours=2)),
        ("-1d12h", NOW - timedelta(days=1, hours=12)),
        ("-1.5m", NOW - timedelta(seconds=90)),
        ("-2w", NOW - timedelta(days=14)),
        ("2026-11-20 14:00+00:00", datetime(2026, 11, 20, 14, tzinfo=UTC)),
        ("2026-11-20T14:00:00Z", datetime(2026, 11, 20, 14, tzinfo=UTC)),
        ("2026-11-20 14:00", datetime(2026, 11, 20, 14).astimezone()),
        ("2026-11-20", datetime(2026, 11, 20).astimezone()),
        ("14:00", datetime(2026, 11, 20, 14).astimezone()),
    ],
)
def test_a_point_is_a_seq_or_a_time(text: str, expected: int | datetime) -> None:
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "-5", "2h", "-2y", "yesterday", "2026-13-01", "-h"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="neither a seq"):
        moment(text, NOW)


@pytest.mark.parametrize("text", ["-999999w", "-9999999999d", "0001-01-01"])
def test_a_time_off_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moment(text, NOW)


def test_an_option_may_be_repeated_and_hold_several() -> None:
    assert split(["a,b", "c", ","]) == ("a", "b", "c")
    assert split(None) == ()
