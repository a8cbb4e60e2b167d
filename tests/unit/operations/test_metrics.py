"""Metrics are written as Prometheus reads them."""

from __future__ import annotations

import re

from spine.client.overview import AgentOverview, Lag
from spine.delivery.leases import Holding
from spine.operations.metrics import Family, Watched, families, written

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
SAMPLE = re.compile(r'^spine_[a-z_]+\{namespace="acme"(,[a-z]+="[^"]*")*\} -?[0-9.e+]+$')


def test_what_is_known_of_an_agent_is_told_per_agent_stage_and_partition() -> None:
    lag = [Lag(agent="shop", partition=p, not_taken=5, pending=1, waiting=0, first=9) for p in range(2)]
    holdings = {0: Holding("w-1", 0, "1", 1_500), 1: Holding(None, 0, None, 0)}
    text = written(families(12_345_678, [Watched(AGENT, lag, holdings, 1.5)]), "acme")
    lines = text.splitlines()
    assert text.endswith("\n")
    assert all(SAMPLE.match(line) for line in lines if not line.startswith("# "))
    for line in (
        'spine_events_total{namespace="acme"} 12345678',
        'spine_agent_lag_events{namespace="acme",agent="shop",stage="not_taken"} 10',
        'spine_agent_lag_events{namespace="acme",agent="shop",stage="pending"} 2',
        'spine_agent_lag_seconds{namespace="acme",agent="shop"} 1.5',
        'spine_agent_workers{namespace="acme",agent="shop"} 0',
        'spine_agent_paused{namespace="acme",agent="shop"} 1',
        'spine_agent_dead_letters{namespace="acme",agent="shop"} 3',
        'spine_agent_held_keys{namespace="acme",agent="shop"} 2',
        'spine_agent_lease_since_seconds{namespace="acme",agent="shop",partition="0"} 1.5',
    ):
        assert line in lines
    assert lines.count("# TYPE spine_agent_lag_events gauge") == 1


def test_labels_are_escaped() -> None:
    text = written([Family("x", "gauge", "y", [({"agent": 'a"\\\n'}, 1)])], "acme")
    assert text.splitlines()[-1] == 'spine_x{namespace="acme",agent="a\\"\\\\\\n"} 1'
