"""`spine doctor`: what is wrong is named with its remedy, and stray entries are taken out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from spine_command import Cli, Result

from spine.keys import Keys, partition_of
from spine.testing.servers import RedisServer

KEY = "k"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server as doctor wants it."""
    with RedisServer.start(tmp_path_factory.mktemp("sound"), appendonly=True) as running:
        yield running


@pytest.fixture
def url(sound: RedisServer) -> str:
    return sound.url


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as connected:
        yield connected


@pytest.fixture
def stream(namespace: str) -> str:
    """The stream of the events that `fill` publishes."""
    return Keys(namespace).log(partition_of(KEY, 8), 1, "a.b")


def fill(cli: Cli, count: int) -> None:
    lines = "".join(f'{{"n": {n}}}\n' for n in range(count))
    assert cli("publish", "a.b", "-", "--key", KEY, stdin=lines).code == 0


def failed(done: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in done.rows if not check["ok"]}


def test_a_sound_server_passes_and_the_look_creates_nothing(cli: Cli, client: redis.Redis, namespace: str) -> None:
    done = cli("doctor")
    assert (done.code, done.err) == (0, "")
    assert failed(done) == {}
    assert [check["name"] for check in done.rows][:5] == ["server", "rights", "version", "role", "eviction"]
    assert list(client.scan_iter(f"spine:{{{namespace}}}:*")) == []
    fill(cli, 5)
    assert cli("doctor").code == 0


def test_no_server_is_a_failed_check(cli: Cli) -> None:
    done = cli("doctor", "--url", "redis://127.0.0.1:1/0")
    assert done.code == 5
    assert list(failed(done)) == ["server"]


def test_a_server_that_may_lose_the_log_fails_with_the_remedy(cli: Cli, tmp_path: Path) -> None:
    config = {"maxmemory": "300mb", "maxmemory-policy": "allkeys-lru"}
    with RedisServer.start(tmp_path / "lossy", config=config) as lossy:
        done = cli("doctor", "--url", lossy.url)
        assert done.code == 5
        found = failed(done)
        assert set(found) == {"eviction", "persistence"}
        assert "noeviction" in found["eviction"]["remedy"]
        assert "appendonly yes" in found["persistence"]["remedy"]
        shown = cli("doctor", "--url", lossy.url, "-o", "table").out
        assert "FAILED  eviction" in shown
        assert "→ it may drop parts of the log" in shown


def test_a_stray_entry_is_named_and_taken_out_and_the_consumer_group_keeps_its_place(
    cli: Cli, client: redis.Redis, stream: str, namespace: str
) -> None:
    fill(cli, 1200)
    client.xgroup_create(stream, "g", "0")
    client.xgroup_createconsumer(stream, "g", "idle")
    client.xreadgroup("g", "c", {stream: ">"}, count=700)
    client.xack(stream, "g", *(f"{seq}-0" for seq in range(1, 101)))
    client.xreadgroup("g", "c", {stream: "0"})  # a second delivery counts
    first, second = (client.xadd(stream, {"who": "knows"}).decode() for _ in range(2))
    pending = client.xpending_range(stream, "g", "-", "+", 2000)

    refused = cli("publish", "a.b", "{}", "--key", KEY)
    assert refused.code == 1
    assert "spine doctor --repair" in refused.err
    sick = cli("doctor")
    assert sick.code == 5
    (check,) = failed(sick).values()
    assert all(part in check["detail"] for part in (stream, first, second, "blocks every append"))

    mended = cli("doctor", "--repair")
    assert mended.code == 0
    assert f"{stream}: 2 stray entries taken out" in mended.err
    (event,) = cli("publish", "a.b", "{}", "--key", KEY).rows

    after = client.xpending_range(stream, "g", "-", "+", 2000)
    assert [(p["message_id"], p["consumer"], p["times_delivered"]) for p in after] == [
        (p["message_id"], p["consumer"], p["times_delivered"]) for p in pending
    ]
    assert len(after) == 600
    assert {consumer["name"] for consumer in client.xinfo_consumers(stream, "g")} == {b"c", b"idle"}
    ((_, entries),) = client.xreadgroup("g", "c", {stream: ">"}, count=2000)
    expected = [*range(701, 1201), event["seq"]]
    assert [int(entry_id.split(b"-")[0]) for entry_id, _ in entries] == expected
    assert [row["seq"] for row in cli("replay").rows] == [*range(1, 1201), event["seq"]]
    assert client.exists(Keys(namespace).own("repair")) == 0


def test_a_group_that_took_the_stray_entry_gets_what_comes_after_it(cli: Cli, client: redis.Redis, stream: str) -> None:
    fill(cli, 3)
    client.xgroup_create(stream, "g", "0")
    stray = client.xadd(stream, {"who": "knows"})
    client.xreadgroup("g", "c", {stream: ">"})
    assert cli("doctor", "--repair").code == 0
    (event,) = cli("publish", "a.b", "{}", "--key", KEY).rows
    ((_, entries),) = client.xreadgroup("g", "c", {stream: ">"})
    assert [entry_id for entry_id, _ in entries] == [f"{event['seq']}-0".encode()]
    assert stray not in [p["message_id"] for p in client.xpending_range(stream, "g", "-", "+", 100)]


def test_a_stray_entry_deleted_by_hand_still_blocks_and_is_mended(cli: Cli, client: redis.Redis, stream: str) -> None:
    fill(cli, 3)
    client.xdel(stream, client.xadd(stream, {"who": "knows"}))
    (check,) = failed(cli("doctor")).values()
    assert "its last id is beyond the counter" in check["detail"]
    assert cli("doctor", "--repair").code == 0
    assert cli("publish", "a.b", "{}", "--key", KEY).code == 0


def test_a_stray_entry_between_our_own_is_found_and_taken_out(cli: Cli, client: redis.Redis, stream: str) -> None:
    fill(cli, 700)
    client.xadd(stream, {"who": "knows"}, id="700-3")
    fill(cli, 700)
    (check,) = failed(cli("doctor")).values()
    assert "700-3" in check["detail"]
    assert "blocks" not in check["detail"]
    mended = cli("doctor", "--repair")
    assert mended.code == 0
    assert "1 stray entries taken out" in mended.err
    assert "anew" not in mended.err
    assert client.xlen(stream) == 1400


def test_a_stray_entry_in_a_bell_is_mended_too_and_every_client_told_to_look_again(
    cli: Cli, client: redis.Redis, namespace: str
) -> None:
    fill(cli, 3)
    keys = Keys(namespace)
    client.xadd(keys.bell(partition_of(KEY, 8)), {"who": "knows"})
    before = client.hget(keys.meta, "epoch")
    assert cli("publish", "a.b", "{}", "--key", KEY).code == 1
    assert cli("doctor", "--repair").code == 0
    assert cli("publish", "a.b", "{}", "--key", KEY).code == 0
    epoch = client.hget(keys.meta, "epoch")
    assert epoch != before
    assert client.lindex(keys.epochs, -1).split()[0] == epoch


def test_events_beyond_a_lost_counter_are_kept_and_the_counter_is_raised(
    cli: Cli, client: redis.Redis, namespace: str
) -> None:
    fill(cli, 10)
    client.set(Keys(namespace).seq, 4)
    found = failed(cli("doctor"))
    assert set(found) == {"counter"}
    assert "up to 10" in found["counter"]["detail"]
    mended = cli("doctor", "--repair")
    assert mended.code == 0
    assert "raised from 4 to 10" in mended.err
    assert len(cli("replay").rows) == 10
    assert cli("publish", "a.b", "{}", "--key", KEY).rows[0]["seq"] == 11


def test_a_key_of_the_log_that_holds_something_else_is_named_and_left_alone(
    cli: Cli, client: redis.Redis, stream: str
) -> None:
    fill(cli, 3)
    client.delete(stream)
    client.set(stream, "mine")
    for args in (("doctor",), ("doctor", "--repair")):
        done = cli(*args)
        assert done.code == 5
        assert f"{stream} holds a string" in failed(done)["streams"]["detail"]
    assert client.get(stream) == b"mine"


def test_a_replica_and_what_a_user_may_not_do_are_named(cli: Cli, tmp_path: Path) -> None:
    with (
        RedisServer.start(tmp_path / "primary", appendonly=True) as server,
        redis.Redis.from_url(server.url) as raw,
    ):
        keys = f"~spine:{{{cli.namespace}}}:*"
        for name, rules in {
            "complete": ["+@all", "-@admin", "-@dangerous", "+info"],
            "silent": ["+@all", "-@admin", "-@dangerous"],
            "writer": ["+@all", "-@admin", "-@dangerous", "+info", "-xadd", "-evalsha"],
        }.items():
            raw.execute_command("ACL", "SETUSER", name, "on", ">pw", "resetkeys", keys, *rules)

        def look(user: str, **env: str) -> dict[str, Any]:
            return failed(cli("doctor", "--url", f"redis://{user}:pw@127.0.0.1:{server.port}/0", **env))

        assert look("complete") == {}
        assert look("silent")["rights"]["detail"] == "this user may not call info"
        assert "+evalsha +xadd" in look("writer")["rights"]["remedy"]
        assert "~spine:{other}:*" in look("complete", SPINE_NAMESPACE="other")["rights"]["remedy"]

        url = f"redis://writer:pw@127.0.0.1:{server.port}/0"
        raw.execute_command("ACL", "SETUSER", "writer", "+evalsha")
        refused = cli("publish", "a.b", "{}", "--url", url)
        assert refused.code == 1
        assert "does not permit this user" in refused.err
        assert "stands in the way" not in refused.err

        with RedisServer.start(tmp_path / "replica", config={"replicaof": f"127.0.0.1 {server.port}"}) as replica:
            found = failed(cli("doctor", "--url", replica.url))
            assert found["role"]["detail"] == f"a replica of 127.0.0.1:{server.port}: nothing can be stored here"
            assert found["role"]["remedy"] == "use the URL of its primary"


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("layout", "sharded", "use the one that wrote it"),
        ("format", "9", "use the one that wrote it"),
        ("format", "incomplete", "run the same fork or import again"),
    ],
)
def test_a_namespace_that_this_version_cannot_open_is_named(
    cli: Cli, client: redis.Redis, namespace: str, field: str, value: str, remedy: str
) -> None:
    fill(cli, 1)
    client.hset(f"spine:{{{namespace}}}:meta", field, value)
    done = cli("doctor")
    assert done.code == 5
    assert remedy in failed(done)["namespace"]["remedy"]
