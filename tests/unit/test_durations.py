"""A duration is a timedelta or a number of seconds, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from spine import InvalidInput
from spine.durations import in_seconds


@pytest.mark.parametrize(
    ("given", "seconds"), [(timedelta(minutes=2), 120.0), (2, 2.0), (0.5, 0.5), (0, 0.0), (-1, -1.0)]
)
def test_both_mean_seconds(given: Any, seconds: float) -> None:
    assert in_seconds(given, "timeout") == seconds


@pytest.mark.parametrize("given", [None, "5", True, float("nan"), float("inf"), timedelta.max])
def test_anything_else_is_refused_by_name(given: Any) -> None:
    with pytest.raises(InvalidInput, match=r"timeout is a number of seconds or a timedelta, .*Nothing was stored"):
        in_seconds(given, "timeout")
