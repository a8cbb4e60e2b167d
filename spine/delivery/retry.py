"""What happens when a handler raises: `Retry`, and the decision it leads to."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from tenacity import Future, RetryCallState, Retrying, wait_exponential_jitter
from tenacity.wait import wait_base

from spine.errors import CoordinationError, LeaseLost

OnDead = Literal["continue", "park"]
HOPELESS = (LeaseLost, CoordinationError)


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often and when a failed event is handled again. Its key is held meanwhile: order stands, others go on.

    Attributes:
        attempts: how often it is handled in all; 1 for no retry.
        wait: a tenacity wait strategy (``tenacity.wait_fixed(2)``, ``wait_exponential(max=60)``, …).
        on: errors that are retried; any other is given up at once.
        kills: how often its worker may die with it running before it is given up.
    """

    attempts: int = 5
    wait: wait_base = wait_exponential_jitter(multiplier=0.1, max=30.0, jitter=0.1)
    on: tuple[type[BaseException], ...] = (Exception,)
    kills: int = 3

    def delay_s(self, attempt: int, error: BaseException) -> float | None:
        """Return the seconds to wait after failed attempt number `attempt`, ``None`` to give up."""
        if attempt >= self.attempts or not isinstance(error, self.on) or isinstance(error, HOPELESS):
            return None
        return float(self.wait(_state(attempt, error)))


def _state(attempt: int, error: BaseException) -> RetryCallState:
    state = RetryCallState(_RETRYING, None, (), {})
    state.attempt_number = attempt
    outcome: Any = Future(attempt)
    outcome.set_exception(error)
    state.outcome = outcome
    return state


_RETRYING = Retrying()
