"""The plugin gives each test its own namespace on a shared server, and finds what a test leaves behind."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFIG = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini(CONFIG)
    return pytester


def run(project: pytest.Pytester, source: str, *options: str, passed: int = 0, failed: int = 0, errors: int = 0):
    project.makepyfile(source)
    result = project.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=60)
    result.assert_outcomes(passed=passed, failed=failed, errors=errors)
    return result


TWO_TESTS = """
    from spine.testing import wait_until

    seen = []

    async def test_publish(spine):
        event = await spine.publish("order.placed", {"sku": 7})
        assert event.seq == 1
        seen.append((spine.namespace, spine.server.url.partition(":")[0], spine.server.info.run_id))

    async def test_another_starts_from_nothing(spine, spine_connect):
        heard = []
        other = await spine_connect(name="other")
        await other.subscribe("order.*", heard.append)
        assert (await spine.publish("order.placed")).seq == 1
        await wait_until(lambda: len(heard) == 1)
        seen.append((spine.namespace, spine.server.url.partition(":")[0], spine.server.info.run_id))

    def test_namespaces_differ_and_the_server_is_one():
        (a, url, server), (b, url_too, server_too) = seen
        assert a != b
        assert (url, url_too) == ("%s", "%s")
        assert (server == server_too) == %s
"""


@pytest.mark.parametrize(
    ("options", "scheme", "shared"), [((), "redis", True), (("--spine-server", "memory"), "memory", False)]
)
def test_each_test_has_a_namespace_of_its_own(
    project: pytest.Pytester, options: tuple[str, ...], scheme: str, shared: bool
) -> None:
    run(project, TWO_TESTS % (scheme, scheme, shared), *options, passed=3)


def test_the_server_may_be_one_that_runs_already(project: pytest.Pytester, url: str) -> None:
    source = f"""
    async def test_it(spine):
        assert spine.server.url == {url!r}
        await spine.publish("a.b")
    """
    run(project, source, "--spine-server", url, passed=1)
    project.makeini(CONFIG + f"spine_server = {url}\n")
    run(project, source, passed=1)


LEAVES = """
    import redis.asyncio

    async def test_leaves_keys(spine, spine_namespace):
        await spine.publish("a.b")
        keys = spine.server.keys
        await spine.server.command("SET", "mine", 1)
        await spine.server.command("SET", keys.dedupe("x"), 1)

    async def test_leaves_nothing(spine):
        await spine.publish("a.b", dedupe_key="x")
        assert await spine.server.command("EXISTS", "mine") == %d
"""


@pytest.mark.parametrize("server", ["embedded", "memory"])
def test_keys_left_behind_fail_a_test(project: pytest.Pytester, server: str) -> None:
    result = run(project, LEAVES % False, "--spine-server", server, passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["the test left keys behind:", "key 'mine' is in no namespace", "key 'spine:{*}:dedupe:x' is made for a while*"]
    )
    project.makeini(CONFIG + "spine_leftovers = false\n")
    run(project, LEAVES % (server == "embedded"), "--spine-server", server, passed=2)


def test_the_namespace_is_gone_afterwards(project: pytest.Pytester, url: str) -> None:
    import redis

    run(
        project,
        """
    async def test_it(spine):
        for n in range(30):
            await spine.publish("a.b", key=f"k-{n}")
    """,
        "--spine-server",
        url,
        passed=1,
    )
    with redis.Redis.from_url(url) as client:
        assert list(client.scan_iter("spine:{test-*")) == []


def test_anyio_and_plain_tests_may_use_it(project: pytest.Pytester) -> None:
    run(
        project,
        """
    from spine.blocking import Spine

    def test_blocking(spine_url, spine_namespace):
        with Spine(spine_url, namespace=spine_namespace) as client:
            assert client.publish("a.b").seq == 1
    """,
        "--spine-server",
        "memory",
        passed=1,
    )
