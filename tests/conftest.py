"""What every test may ask for: a server for the whole run and a namespace of its own."""

from __future__ import annotations

import signal

import pytest

from spine.testing.servers import RedisServer


def pytest_configure() -> None:
    """Let the processes that tests start be interrupted, also where the run itself cannot: in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(spine_server: RedisServer) -> RedisServer:
    """One server for the whole run. A test that stops or pauses servers starts its own."""
    return spine_server


@pytest.fixture
def url(spine_url: str) -> str:
    """Where the server of this run is; ``--spine-server`` chooses another than a real one of our own."""
    return spine_url


@pytest.fixture
def memory_url(spine_memory_url: str) -> str:
    """A server of this test inside the process."""
    return spine_memory_url


@pytest.fixture
def namespace(spine_namespace: str) -> str:
    """A namespace that no other test has seen; what is left behind fails the test, and is deleted."""
    return spine_namespace
