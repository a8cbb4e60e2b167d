"""What one watches all the time, for Prometheus and whatever else reads its format."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spine.client import Spine
from spine.client.overview import AgentOverview, Lag
from spine.delivery.leases import Holding, survey
from spine.errors import SpineError
from spine.events import to_ms

PATIENCE_S = 10.0


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


class NamespaceCollector(Collector):
    """Collects the metrics of a namespace as they are at the moment of a scrape.

    Scrapes come in threads; the client is asked in its loop. While the server is away there is ``spine_up 0`` alone.

    Args:
        spine: a client, open.
        loop: that it lives in.
    """

    def __init__(self, spine: Spine, loop: asyncio.AbstractEventLoop) -> None:
        self._spine = spine
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        asked = asyncio.run_coroutine_threadsafe(_found(self._spine), self._loop)
        try:
            head, watched = asked.result(PATIENCE_S)
        except (SpineError, TimeoutError):
            asked.cancel()
            yield _up(self._spine.namespace, 0)
            return
        yield _up(self._spine.namespace, 1)
        yield from families(self._spine.namespace, head, watched)


def registry_of(collector: Collector) -> CollectorRegistry:
    """Return a registry that asks `collector` for nothing before the first scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


async def _found(spine: Spine) -> tuple[int, list[Watched]]:
    return await spine.head(), await _watched(spine)


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


def _up(namespace: str, value: int) -> Metric:
    up = GaugeMetricFamily("spine_up", "1 while the server answers.", labels=("namespace",))
    up.add_metric((namespace,), value)
    return up


def families(namespace: str, head: int, watched: list[Watched]) -> Iterator[Metric]:
    """Yield the metrics of a log that ends at `head`, and of its agents."""
    events = CounterMetricFamily("spine_events", "Events ever stored: the last number given.", labels=("namespace",))
    events.add_metric((namespace,), head)
    yield events

    def each(
        name: str, text: str, values: Iterable[tuple[Watched, float, *tuple[str, ...]]], *labels: str
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"spine_agent_{name}", text, labels=("namespace", "agent", *labels))
        for one, value, *further in values:
            family.add_metric((namespace, one.agent.name, *further), value)
        return family

    yield each(
        "lag_events",
        "Events before an agent: not taken, taken and not handled (pending), behind a held key (waiting).",
        (
            (one, sum(getattr(part, stage) for part in one.lag), stage)
            for one in watched
            for stage in ("not_taken", "pending", "waiting")
        ),
        "stage",
    )
    yield each(
        "lag_seconds",
        "Age of the oldest event that an agent has not handled, held ones left out.",
        ((one, one.oldest_s) for one in watched),
    )
    yield each("workers", "Living workers.", ((one, len(one.agent.workers)) for one in watched))
    yield each("paused", "1 while the agent is paused.", ((one, one.agent.paused) for one in watched))
    yield each("free_partitions", "Partitions that nobody holds.", ((one, len(one.agent.free)) for one in watched))
    yield each("dead_letters", "Events given up (`spine dlq`).", ((one, one.agent.dead) for one in watched))
    yield each("held_keys", "Keys that are held (`spine agents held`).", ((one, one.agent.held) for one in watched))
    yield each(
        "lease_since_seconds",
        "When the lease of a partition was taken; each change is a hand-over or a death.",
        (
            (one, holding.since_ms / 1000, str(partition))
            for one in watched
            for partition, holding in one.holdings.items()
            if holding.owner is not None
        ),
        "partition",
    )
