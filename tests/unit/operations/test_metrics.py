"""What is told of a namespace to whoever watches it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from spine.client.overview import AgentOverview, Lag
from spine.delivery.leases import Holding
from spine.errors import ServerUnreachable
from spine.operations.metrics import NamespaceCollector, Watched, families, registry_of

AGENT = AgentOverview(
    name="shop",
    version="1",
    versions=("1",),
    paused=True,
    handles=(),
    reduces=(),
    workers=(),
    free=(1,),
    dead=3,
    held=2,
)


class Known(Collector):
    """Metrics that are known already."""

    def __init__(self, metrics: Iterator[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics


def test_what_is_known_of_an_agent_is_told_per_agent_stage_and_partition() -> None:
    lag = [Lag(agent="shop", partition=p, not_taken=5, pending=1, waiting=0, first=9) for p in range(2)]
    holdings = {0: Holding("w-1", 0, "1", 1_500), 1: Holding(None, 0, None, 0)}
    registry = registry_of(Known(families("acme", 12_345_678, [Watched(AGENT, lag, holdings, 1.5)])))
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'spine_events_total{namespace="acme"} 1.2345678e+07',
        'spine_agent_lag_events{agent="shop",namespace="acme",stage="not_taken"} 10.0',
        'spine_agent_lag_events{agent="shop",namespace="acme",stage="pending"} 2.0',
        'spine_agent_lag_seconds{agent="shop",namespace="acme"} 1.5',
        'spine_agent_workers{agent="shop",namespace="acme"} 0.0',
        'spine_agent_paused{agent="shop",namespace="acme"} 1.0',
        'spine_agent_dead_letters{agent="shop",namespace="acme"} 3.0',
        'spine_agent_held_keys{agent="shop",namespace="acme"} 2.0',
        'spine_agent_lease_since_seconds{agent="shop",namespace="acme",partition="0"} 1.5',
    ):
        assert line in lines
    assert lines.count("# TYPE spine_agent_lag_events gauge") == 1


async def test_while_the_server_is_away_a_scrape_says_so_and_no_more() -> None:
    async def head() -> int:
        raise ServerUnreachable("no Redis")

    spine: Any = SimpleNamespace(namespace="acme", head=head)
    registry = registry_of(NamespaceCollector(spine, asyncio.get_running_loop()))
    text = (await asyncio.to_thread(generate_latest, registry)).decode()
    assert text.splitlines()[-1] == 'spine_up{namespace="acme"} 0.0'
