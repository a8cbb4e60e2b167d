"""What a rate in words means."""

from __future__ import annotations

import pytest

from spine import InvalidInput
from spine.worker.limits import parse_rate


@pytest.mark.parametrize(
    ("rate", "interval_ms", "burst"),
    [
        ("100/min", 600.0, 2),
        ("10/s", 100.0, 10),
        ("1/s", 1000.0, 1),
        ("1000/s", 1.0, 1000),
        ("60/minute", 1000.0, 1),
        ("1/h", 3_600_000.0, 1),
        ("7200/hour", 500.0, 2),
        ("3 / sec", 1000 / 3, 3),
    ],
)
def test_a_rate_is_a_distance_and_what_may_start_at_once(rate: str, interval_ms: float, burst: int) -> None:
    assert parse_rate(rate) == (pytest.approx(interval_ms), burst)


@pytest.mark.parametrize("rate", ["", "100", "100/day", "x/min", "0/s", "-1/s", "1.5/s", "/s", "100/min/x"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(InvalidInput):
        parse_rate(rate)
