"""What one watches all the time, in the text format that Prometheus and OpenTelemetry collectors read."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from spine.client import Spine
from spine.client.overview import AgentOverview, Lag
from spine.delivery.leases import Holding, survey
from spine.events import to_ms

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Family(msgspec.Struct, frozen=True):
    """One metric, with a value for each set of labels.

    Attributes:
        name: without the prefix ``spine_``.
        kind: ``gauge`` or ``counter``.
        text: what it means.
        samples: labels and value.
    """

    name: str
    kind: str
    text: str
    samples: list[tuple[dict[str, str], float]]


class Watched(msgspec.Struct, frozen=True):
    """What is known of an agent at one moment.

    Attributes:
        agent: as it stands.
        lag: what it has before it, by partition.
        holdings: who holds each partition.
        oldest_s: age of the oldest event that it has not handled, held ones left out; 0 when there is none.
    """

    agent: AgentOverview
    lag: list[Lag]
    holdings: dict[int, Holding]
    oldest_s: float


async def exposition(spine: Spine) -> str:
    """Return the metrics of a namespace as they are now."""
    head = await spine.head()
    return written(families(head, await _watched(spine)), spine.namespace)


async def _watched(spine: Spine) -> list[Watched]:
    lag = await spine.lag()
    found = []
    for agent in await spine.agents():
        own = [one for one in lag if one.agent == agent.name]
        first = min((one.first for one in own if one.first is not None), default=None)
        holdings = (await survey(spine.server, agent.name)).holdings
        found.append(Watched(agent, own, holdings, await _age_s(spine, first)))
    return found


async def _age_s(spine: Spine, seq: int | None) -> float:
    if seq is None:
        return 0.0
    async for event in spine.replay(after=seq - 1, until=seq):
        return max(0.0, (spine.server.now_ms() - to_ms(event.ts)) / 1000)
    return 0.0


def families(head: int, watched: list[Watched]) -> list[Family]:
    """Return the metrics of a log that ends at `head`, and of its agents."""

    def each(name: str, text: str, values: Iterable[tuple[Watched, dict[str, str], float]]) -> Family:
        samples = [({"agent": one.agent.name, **labels}, value) for one, labels, value in values]
        return Family(f"agent_{name}", "gauge", text, samples)

    return [
        Family("events_total", "counter", "Events ever stored: the last number given.", [({}, head)]),
        each(
            "lag_events",
            "Events before an agent: not taken, taken and not handled (pending), behind a held key (waiting).",
            (
                (one, {"stage": stage}, sum(getattr(part, stage) for part in one.lag))
                for one in watched
                for stage in ("not_taken", "pending", "waiting")
            ),
        ),
        each(
            "lag_seconds",
            "Age of the oldest event that an agent has not handled, held ones left out.",
            ((one, {}, one.oldest_s) for one in watched),
        ),
        each("workers", "Living workers.", ((one, {}, len(one.agent.workers)) for one in watched)),
        each("paused", "1 while the agent is paused.", ((one, {}, one.agent.paused) for one in watched)),
        each("free_partitions", "Partitions that nobody holds.", ((one, {}, len(one.agent.free)) for one in watched)),
        each("dead_letters", "Events given up (`spine dlq`).", ((one, {}, one.agent.dead) for one in watched)),
        each("held_keys", "Keys that are held (`spine agents held`).", ((one, {}, one.agent.held) for one in watched)),
        each(
            "lease_since_seconds",
            "When the lease of a partition was taken; each change is a hand-over or a death.",
            (
                (one, {"partition": str(partition)}, holding.since_ms / 1000)
                for one in watched
                for partition, holding in one.holdings.items()
                if holding.owner is not None
            ),
        ),
    ]


def written(found: list[Family], namespace: str) -> str:
    """Return metrics as text, all labelled with their namespace."""
    lines = []
    for family in found:
        lines += [f"# HELP spine_{family.name} {family.text}", f"# TYPE spine_{family.name} {family.kind}"]
        for labels, value in family.samples:
            shown = ",".join(
                f'{name}="{text.translate(_ESCAPED)}"' for name, text in {"namespace": namespace, **labels}.items()
            )
            lines.append(f"spine_{family.name}{{{shown}}} {float(value):.15g}")
    return "\n".join(lines) + "\n"
