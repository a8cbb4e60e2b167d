"""What an arm is, and the register that the arms' modules fill."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

Server = Literal["redis", "nats"]
Sample = dict[str, float]
"""One measurement: metric name -> value. Rates are per second, latencies in microseconds."""

ARM_MODULES = (
    "raw_log",
    "raw_wakeups",
    "nats_jetstream",
    "nats_core",
    "faststream_streams",
    "taskiq_streams",
    "streaq_queue",
    "spine_log",
    "spine_delivery",
    "spine_requests",
    "spine_scale",
    "spine_import",
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an arm gets for one measurement; it is sent to the arm's processes as it is."""

    redis_url: str
    nats_url: str
    count: int
    """Events (or requests) to measure."""
    warmup: int
    """Events to run before the clock starts."""
    timeout: float
    """Seconds after which the arm's processes are killed."""
    storage: str = "file"
    """What its server keeps data in, for an arm that starts one more."""

    @property
    def total(self) -> int:
        """Events in all."""
        return self.warmup + self.count


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing measured one way."""

    name: str
    """`peer.what`, as figures and `--only` name it."""
    measure: Callable[[Setup], Coroutine[Any, Any, Sample]]
    server: Server | None
    """The server started for it."""
    packages: tuple[str, ...]
    """What must be importable, or the row says what is missing."""
    count: int
    quick_count: int
    timeout: float = 120.0

    def counts(self, quick: bool) -> tuple[int, int]:
        """Events to measure and to warm up with: a tenth more, at most 5,000."""
        count = self.quick_count if quick else self.count
        return count, min(5_000, max(1, count // 10))


ARMS: dict[str, Arm] = {}

Measure = Callable[[Setup], Coroutine[Any, Any, Sample]]


def arm(
    name: str,
    *,
    server: Server | None = "redis",
    packages: tuple[str, ...] = (),
    count: int,
    quick: int,
    timeout: float = 120.0,
) -> Callable[[Measure], Measure]:
    """Register the decorated coroutine function as the arm `name`.

    The modules of peers are imported inside the function: the harness runs where they are not installed.
    """

    def register(measure: Measure) -> Measure:
        ARMS[name] = Arm(
            name=name,
            measure=measure,
            server=server,
            packages=packages,
            count=count,
            quick_count=quick,
            timeout=timeout,
        )
        return measure

    return register


def load_arms() -> dict[str, Arm]:
    """All arms, after importing the modules that define them."""
    for module in ARM_MODULES:
        importlib.import_module(f"scripts.bench.arms.{module}")
    return ARMS
