"""When a failed event is handled again, and when it is given up."""

from __future__ import annotations

import pytest
from tenacity import wait_exponential, wait_fixed, wait_incrementing, wait_none

from spine.delivery.retry import Retry
from spine.errors import LeaseLost

FAILED = ValueError("no")


def test_it_gives_up_after_the_last_attempt() -> None:
    retry = Retry(attempts=3, wait=wait_fixed(2))
    assert [retry.delay_s(attempt, FAILED) for attempt in (1, 2, 3, 4)] == [2.0, 2.0, None, None]


def test_one_attempt_means_no_retry() -> None:
    assert Retry(attempts=1).delay_s(1, FAILED) is None


@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (wait_exponential(multiplier=1, max=5), [1.0, 2.0, 4.0, 5.0]),
        (wait_incrementing(start=1, increment=2), [1.0, 3.0, 5.0, 7.0]),
        (wait_none(), [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_wait_strategy_sees_the_number_of_the_attempt(wait: object, delays: list[float]) -> None:
    retry = Retry(attempts=9, wait=wait)  # type: ignore[arg-type]
    assert [retry.delay_s(attempt, FAILED) for attempt in (1, 2, 3, 4)] == delays


def test_only_the_named_errors_are_retried() -> None:
    retry = Retry(on=(OSError, KeyError))
    assert retry.delay_s(1, ConnectionError()) is not None
    assert retry.delay_s(1, KeyError()) is not None
    assert retry.delay_s(1, FAILED) is None


def test_a_lost_lease_is_no_failure_of_the_handler() -> None:
    assert Retry().delay_s(1, LeaseLost("gone")) is None


def test_by_default_the_waits_grow_and_end() -> None:
    retry = Retry(attempts=100)
    delays = [retry.delay_s(attempt, FAILED) for attempt in range(1, 15)]
    assert all(delay is not None and 0 < delay <= 30.1 for delay in delays)
    assert delays[8] > 10  # type: ignore[operator]
