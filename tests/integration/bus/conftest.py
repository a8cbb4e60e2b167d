"""A bus on each kind of server."""

from collections.abc import AsyncIterator

import pytest

from spine import Spine
from spine.bus import AgentEventBus


@pytest.fixture(params=["memory", "server"])
def bus_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("memory_url" if request.param == "memory" else "url")


@pytest.fixture
async def spine(bus_url: str, namespace: str) -> AsyncIterator[Spine]:
    async with Spine(bus_url, namespace=namespace) as spine:
        yield spine


@pytest.fixture
async def bus(spine: Spine) -> AsyncIterator[AgentEventBus]:
    async with AgentEventBus(spine) as bus:
        yield bus
