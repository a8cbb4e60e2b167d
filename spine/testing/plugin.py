"""The pytest plugin: a `spine` for each test, in a namespace of its own that is cleaned up.

By default all tests of a run share one real server, started with the first test that asks and stopped at the end.
``--spine-server memory`` (or ``spine_server = memory`` in the configuration) runs the same tests on ``memory://``, a
URL on a server that is there already, ``docker:valkey/valkey:9.0`` on one in a container.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from spine.testing.containers import IMAGES

if TYPE_CHECKING:
    import redis

    from spine import Spine
    from spine.testing.clock import Clock
    from spine.testing.servers import RedisServer

EMBEDDED = "embedded"
MEMORY = "memory"
CONTAINER = "docker:"

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def async_fixture(function: FunctionT) -> FunctionT:
    """Make `function` a fixture of pytest-asyncio, whatever its mode; where that is missing, of whoever runs it."""
    try:
        from pytest_asyncio import fixture
    except ImportError:
        return cast(FunctionT, pytest.fixture(function))
    return cast(FunctionT, fixture(function))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what may be chosen."""
    text = "server of the `spine` fixture: embedded (a real one, for this run), memory, docker:IMAGE, or a URL"
    parser.getgroup("spine").addoption("--spine-server", metavar="SERVER", help=text)
    parser.addini("spine_server", text, default=EMBEDDED)
    parser.addini("spine_leftovers", "fail tests that leave keys behind", type="bool", default=True)


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker that the plugin gives."""
    config.addinivalue_line("markers", "containers: needs a container engine")


@pytest.fixture(scope="session")
def spine_server_choice(pytestconfig: pytest.Config) -> str:
    """``embedded``, ``memory``, ``docker:IMAGE`` or a URL."""
    return str(pytestconfig.getoption("--spine-server") or pytestconfig.getini("spine_server"))


@pytest.fixture(scope="session")
def spine_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server for the whole run. A test that stops or pauses servers starts its own."""
    from spine.testing.servers import RedisServer

    with RedisServer.start(tmp_path_factory.mktemp("spine-server")) as running:
        yield running


@pytest.fixture(scope="session")
def spine_containers() -> Iterator[Callable[[str], str]]:
    """A function that returns the URL of a server of an image; each is started once, and skipped without an engine."""
    from spine.testing.containers import container

    with ExitStack() as stack:
        yield cache(lambda image: stack.enter_context(container(image)))


@pytest.fixture(params=[pytest.param(image, marks=pytest.mark.containers) for image in IMAGES])
def spine_container_url(request: pytest.FixtureRequest, spine_containers: Callable[[str], str]) -> str:
    """A server in a container; the test runs once for each version of Redis and Valkey that spine is tried on."""
    return spine_containers(request.param)


@pytest.fixture
def spine_memory_url() -> Iterator[str]:
    """A server inside this process, of this test alone."""
    from spine.testing.memory import forget

    url = f"memory://{secrets.token_hex(8)}"
    yield url
    forget(url)


@pytest.fixture
def spine_url(request: pytest.FixtureRequest, spine_server_choice: str) -> str:
    """Where the server of this test is."""
    if spine_server_choice == MEMORY:
        return str(request.getfixturevalue("spine_memory_url"))
    if spine_server_choice.startswith(CONTAINER):
        return str(request.getfixturevalue("spine_containers")(spine_server_choice.removeprefix(CONTAINER)))
    if spine_server_choice == EMBEDDED:
        return str(request.getfixturevalue("spine_server").url)
    return spine_server_choice


@pytest.fixture
def spine_namespace(pytestconfig: pytest.Config, spine_url: str, spine_server_choice: str) -> Iterator[str]:
    """A namespace that no other test has seen. Its keys are looked at and deleted afterwards."""
    from spine.testing.leftovers import clean, leftovers

    name = f"test-{secrets.token_hex(8)}"
    yield name
    checked = pytestconfig.getini("spine_leftovers")
    own_server = spine_server_choice in (EMBEDDED, MEMORY) or spine_server_choice.startswith(CONTAINER)
    with _client(spine_url) as client:
        found = leftovers(client, name, own_server=own_server)
        clean(client, name, strangers=own_server and checked)  # so that only the test that left them fails
    if found and checked:
        pytest.fail("the test left keys behind:\n" + "\n".join(found), pytrace=False)


@async_fixture
async def spine_connect(spine_url: str, spine_namespace: str) -> AsyncIterator[Callable[..., Awaitable[Spine]]]:
    """A function that opens a further client in the namespace of this test, with options of its own.

    ``await spine_connect(name="web")``
    """
    from spine import Spine

    async with AsyncExitStack() as stack:

        async def connect(**options: Any) -> Spine:
            return await stack.enter_async_context(Spine(spine_url, namespace=spine_namespace, **options))

        yield connect


@async_fixture
async def spine(spine_connect: Callable[..., Awaitable[Spine]]) -> Spine:
    """An open client in a namespace of this test's own."""
    return await spine_connect()


@pytest.fixture
def spine_clock(spine: Spine) -> Iterator[Clock]:
    """A clock that moves deadlines, due times, retries and leases: ``await spine_clock.advance(3600)``."""
    from spine.testing.clock import Clock

    clock = Clock(spine)
    yield clock
    clock.reset()


def _client(url: str) -> redis.Redis:
    if url.startswith("memory://"):
        from spine.testing.memory import memory_client

        return memory_client(url)
    import redis

    return redis.Redis.from_url(url)
