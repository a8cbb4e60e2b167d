"""`spine metrics` and `spine agents held`: what is watched, and why work waits."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
from spine_command import Cli

from spine import Agent, Event, Handling, Retry, Spine, Worker, on
from spine.testing.waiting import wait_until


class Picky(Agent[None]):
    name = "picky"

    @on("work", retry=Retry(attempts=1), on_dead="park")
    async def work(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        raise ValueError("not that one")


@pytest.fixture
async def parked(url: str, namespace: str) -> AsyncIterator[Spine]:
    """A namespace with a parked key and an event behind it."""
    async with Spine(url, namespace=namespace) as spine:
        async with Worker(spine, Picky):
            for _ in range(2):
                await spine.publish("work", {}, key="k")
            await wait_until(lambda: _waits(spine), 15)
        yield spine


async def _waits(spine: Spine) -> bool:
    return [key.waiting for key in await spine.held_keys("picky")] == [1]


def test_a_held_key_is_shown_with_its_reason(cli: Cli, parked: Spine) -> None:
    (row,) = cli("agents", "held").rows
    assert (row["agent"], row["key"], row["reason"], row["waiting"], row["until"]) == ("picky", "k", "parked", 1, None)
    assert (row["seq"], row["error"]) == (1, "event 1 is a dead letter")
    assert cli("agents", "held", "picky", "-o", "table").out.splitlines()[1].startswith("picky  k    parked")
    assert cli("agents", "held", "nobody").code == 2


def test_metrics_are_written_and_served(cli: Cli, parked: Spine) -> None:
    written = cli("metrics").out.splitlines()
    of = f'{{agent="picky",namespace="{cli.namespace}"'
    assert f"spine_agent_dead_letters{of}}} 1.0" in written
    assert f'spine_agent_lag_events{of},stage="waiting"}} 1.0' in written
    serving = cli.start("metrics", "--listen", "0")
    place = serving.until_said("metrics at http://").split()[2].rstrip(";")
    with urllib.request.urlopen(place, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert answer.read().decode().splitlines()[:5] == written[:5]
    serving.signal(signal.SIGINT)
    assert serving.wait() == 0
    assert cli("metrics", "--listen", "nowhere").code == 2
    assert cli("metrics", "--url", "redis://127.0.0.1:1/0").code == 4
