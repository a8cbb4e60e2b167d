"""What every test may ask for: a server for the whole run and a namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import redis

from spine.testing.memory import forget
from spine.testing.servers import RedisServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole run. A test that stops or pauses servers starts its own."""
    with RedisServer.start(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def url(server: RedisServer) -> str:
    """Where the server of this run is."""
    return server.url


@pytest.fixture
def memory_url() -> Iterator[str]:
    """A server of this test inside the process."""
    url = f"memory://{secrets.token_hex(8)}"
    yield url
    forget(url)


@pytest.fixture
def namespace(url: str) -> Iterator[str]:
    """A namespace that no other test has seen; its keys are deleted afterwards."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    with redis.Redis.from_url(url) as client:
        keys = list(client.scan_iter(match=f"spine:{{{name}}}:*", count=1000))
        if keys:
            client.unlink(*keys)
