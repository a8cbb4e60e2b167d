"""The table: what is measured, what it is held against, and what is to be reached.

A claim without a target is shown for comparison only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Operator = Literal[">=", "<="]


@dataclass(frozen=True)
class Reading:
    """One metric of one arm."""

    arm: str
    metric: str = "rate"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A reading held against another one, or against a fixed number."""

    value: Reading
    beside: Reading | None = None
    """The ratio is value / beside; without it the value itself has to reach the target."""
    operator: Operator = ">="
    target: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A line of the table with its claims."""

    name: str
    """What `--only` takes."""
    title: str
    claims: tuple[Claim, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that its claims read, in order, once each."""
        names = (reading.arm for claim in self.claims for reading in (claim.value, claim.beside) if reading is not None)
        return tuple(dict.fromkeys(names))


def rates(value: str, *peers: tuple[str, float | None]) -> tuple[Claim, ...]:
    """Claims that the rate of `value` is at least so many times that of each peer."""
    return tuple(Claim(value=Reading(value), beside=Reading(peer), target=target) for peer, target in peers)


def at_most(value: Reading, target: float, beside: Reading | None = None, note: str = "") -> Claim:
    """The claim that a cost is at most `target`, or so many times that of `beside`."""
    return Claim(value=value, beside=beside, operator="<=", target=target, note=note)


def two_worker_target(cores: int) -> float:
    """Two processes and the server share the cores: with fewer than four they get in each other's way."""
    return 1.6 if cores >= 4 else 1.3


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="publish_many",
        title="publish_many, 256 a call",
        claims=rates("spine.publish_many", ("raw.lua_batch", 0.4), ("nats.publish", 5.0), ("streaq.enqueue", None)),
    ),
    Figure(
        name="publish",
        title="publish, 512 in flight",
        claims=rates(
            "spine.publish",
            ("nats.publish", 2.5),
            ("faststream.publish", 4.0),
            ("nats.publish_awaited", None),
            ("taskiq.enqueue", None),
        ),
    ),
    Figure(
        name="worker",
        title="one worker, no-op handler, committed",
        claims=rates(
            "spine.worker",
            ("nats.pull", 1.0),
            ("faststream.consume", 8.0),
            ("taskiq.consume", None),
            ("streaq.consume", None),
            ("raw.take", None),
        ),
    ),
    Figure(
        name="worker_emit",
        title="handler emits one event, committed together",
        claims=rates("spine.worker_emit", ("spine.worker", 0.7)),
    ),
    Figure(
        name="two_workers",
        title="two worker processes",
        claims=rates("spine.two_workers", ("spine.worker", two_worker_target(os.cpu_count() or 1))),
    ),
    Figure(
        name="replay",
        title="replay to Event",
        claims=rates("spine.replay", ("raw.xrange", 0.45), ("nats.ordered", 1.3)),
    ),
    Figure(
        name="request_one",
        title="request/reply, one at a time",
        claims=(
            at_most(Reading("spine.request_one", "p50"), 2.0, Reading("raw.chain", "p50")),
            at_most(Reading("spine.request_one", "p99"), 3.0, Reading("spine.request_one", "p50")),
            Claim(value=Reading("spine.request_one", "p50"), beside=Reading("nats.request_one", "p50")),
        ),
    ),
    Figure(
        name="request_many",
        title="request/reply, 256 in flight",
        claims=rates("spine.request_many", ("nats.request_many", 1.0)),
    ),
    Figure(
        name="requests_10k",
        title="10,000 requests in flight at once",
        claims=(
            Claim(value=Reading("spine.requests_10k", "answered_share"), target=1.0, note="all answered"),
            at_most(Reading("spine.requests_10k", "connections"), 4.0, note="connections"),
            at_most(Reading("spine.requests_10k", "errors"), 0.0, note="errors"),
        ),
    ),
    Figure(
        name="wake",
        title="publish → handler start, light load",
        claims=(at_most(Reading("spine.wake", "p50"), 1.8, Reading("raw.wake", "p50")),),
    ),
    Figure(
        name="big_log",
        title="log of 1,000,000 events against an empty one",
        claims=(
            *(
                Claim(
                    value=Reading("spine.big_log", f"{what}_full"),
                    beside=Reading("spine.big_log", f"{what}_empty"),
                    target=0.9,
                    note=what,
                )
                for what in ("publish", "deliver", "request")
            ),
        ),
    ),
    Figure(
        name="crowd",
        title="50 agents, 200 topics against 1 and 1",
        claims=(
            Claim(
                value=Reading("spine.crowd", "publish_crowd"),
                beside=Reading("spine.crowd", "publish_alone"),
                target=0.8,
                note="publish",
            ),
            Claim(
                value=Reading("spine.crowd", "deliver_crowd"),
                beside=Reading("spine.crowd", "deliver_few"),
                target=0.8,
                note="deliver to 4 topics, 196 flow past",
            ),
            Claim(
                value=Reading("spine.crowd", "deliver_crowd"),
                beside=Reading("spine.crowd", "deliver_alone"),
                note="the same against 1 topic",
            ),
        ),
    ),
    Figure(
        name="bytes",
        title="bytes in Redis per event",
        claims=(at_most(Reading("spine.bytes", "bytes"), 1.5, Reading("spine.bytes", "plain_bytes")),),
    ),
    Figure(
        name="import",
        title="import spine; spine --help",
        claims=(
            at_most(Reading("spine.import", "seconds"), 1.3, Reading("raw.import", "seconds"), note="import spine"),
            Claim(
                value=Reading("spine.import", "names_seconds"),
                beside=Reading("raw.import", "seconds"),
                operator="<=",
                note="from spine import Spine, Agent",
            ),
            at_most(Reading("spine.help", "seconds"), 0.5, note="spine --help"),
        ),
    ),
)


def chosen(only: list[str]) -> tuple[Figure, ...]:
    """The figures named in `only`, or all of them.

    Raises:
        KeyError: a name is not that of a figure; its argument lists those that are.
    """
    known = {figure.name: figure for figure in FIGURES}
    if unknown := [name for name in only if name not in known]:
        raise KeyError(f"no figure {', '.join(unknown)}; there are: {', '.join(known)}")
    return tuple(figure for figure in FIGURES if not only or figure.name in only)


def arms_of(figures: tuple[Figure, ...]) -> tuple[str, ...]:
    """All arms that the figures need, once each, in the order of the table."""
    return tuple(dict.fromkeys(name for figure in figures for name in figure.arms))
