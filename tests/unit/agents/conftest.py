"""The conversations that the project ships, the sample beside the checkout, and on what servers the team is tried."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from spine import Agent
from spine.testing import AgentHarness

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "agents" / "conversations"
SAMPLE = Path(os.environ.get("SPINE_SAMPLE") or ROOT.parent / "shared" / "data" / "sgd-sample")


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED


@pytest.fixture(scope="session")
def sample() -> Path:
    if not SAMPLE.is_dir():
        pytest.skip(f"no sample conversations in {SAMPLE}")
    return SAMPLE


@pytest.fixture(scope="session", params=["memory", "embedded"])
def spine_server_choice(request: pytest.FixtureRequest) -> str:
    """The same tests run on both; ``-k memory`` chooses the quick ones."""
    return str(request.param)


@pytest_asyncio.fixture
async def alone(spine_url: str) -> AsyncIterator[Callable[[type[Agent[Any]]], Awaitable[AgentHarness[Any]]]]:
    """Start one agent by itself: ``await alone(Scheduling)``."""
    async with AsyncExitStack() as stack:

        async def start(agent: type[Agent[Any]]) -> AgentHarness[Any]:
            return await stack.enter_async_context(AgentHarness(agent, url=spine_url))

        yield start
