"""What a rate in words means."""

from __future__ import annotations

import pytest

from spine import InvalidInput
from spine.worker.limits import parse_rate


@pytest.mark.parametrize(
    ("rate", "interval_ms", "burst"),
    [
        ("100/min", 60_000 / 99, 2),
        ("10/s", 100.0, 1),
        ("1/s", 1000.0, 1),
        ("1000/s", 1000 / 981, 20),
        ("60/minute", 1000.0, 1),
        ("1/h", 3_600_000.0, 1),
        ("7200/hour", 3_600_000 / 7199, 2),
        ("3 / sec", 1000 / 3, 1),
    ],
)
def test_a_rate_is_a_distance_and_what_may_start_at_once(rate: str, interval_ms: float, burst: int) -> None:
    assert parse_rate(rate) == (pytest.approx(interval_ms), burst)


@pytest.mark.parametrize(
    ("number", "unit", "seconds"), [(1, "s", 1), (100, "s", 1), (100, "min", 60), (9999, "h", 3600)]
)
def test_no_stretch_of_its_unit_sees_more_than_a_rate_says(number: int, unit: str, seconds: int) -> None:
    interval_ms, burst = parse_rate(f"{number}/{unit}")
    most = burst + int((seconds * 1000 - 0.001) / interval_ms)  # all at once, and one whenever the distance allows
    assert most <= number
    assert most >= 0.97 * number


@pytest.mark.parametrize("rate", ["", "100", "100/day", "x/min", "0/s", "-1/s", "1.5/s", "/s", "100/min/x"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(InvalidInput):
        parse_rate(rate)
