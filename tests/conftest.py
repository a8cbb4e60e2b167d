"""What every test may ask for: a server for the whole run and a namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import redis

from spine.testing.leftovers import clean, leftovers
from spine.testing.servers import RedisServer


@pytest.fixture(scope="session")
def server(spine_server: RedisServer) -> RedisServer:
    """One server for the whole run. A test that stops or pauses servers starts its own."""
    return spine_server


@pytest.fixture
def url(server: RedisServer) -> str:
    """Where the server of this run is."""
    return server.url


@pytest.fixture
def memory_url(spine_memory_url: str) -> str:
    """A server of this test inside the process."""
    return spine_memory_url


@pytest.fixture
def namespace(url: str) -> Iterator[str]:
    """A namespace that no other test has seen; what is left behind fails the test, and is deleted."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    with redis.Redis.from_url(url) as client:
        found = leftovers(client, name)
        clean(client, name)
    if found:
        pytest.fail("the test left keys behind:\n" + "\n".join(found), pytrace=False)
