"""May this user do what spine needs: each command is queued in a transaction, which is then thrown away.

The server looks at a user's rights when a command is queued; nothing is carried out.
"""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from spine.keys import Keys

# By what comes after the key.
_ON_A_KEY = {
    (): "DEL EXISTS GET HGETALL HKEYS HLEN HVALS LLEN LPOP PTTL RPOP SCARD SMEMBERS TYPE UNLINK XLEN",
    ("1",): "HDEL HEXISTS HGET HMGET HSCAN INCRBY LINDEX LPUSH PEXPIRE RPUSH SADD SET SISMEMBER SREM ZREM ZSCORE",
    ("1", "1"): "HINCRBY HSET HSETNX LRANGE LREM XACK XRANGE XREVRANGE ZADD ZRANGE ZRANGEBYSCORE ZREMRANGEBYSCORE",
    ("1-0",): "XDEL",
    ("MAXLEN", "1"): "XTRIM",
    ("1-0", "f", "v"): "XADD",
    ("g",): "XPENDING",
    ("g", "c", "0", "1-0"): "XCLAIM",
}
_WITHOUT_A_KEY = (
    ("TIME",),
    ("INFO", "server"),
    ("EVAL", "return 1", "0"),
    ("EVALSHA", "0" * 40, "0"),
    ("SCRIPT", "LOAD", "return 1"),
    ("SCAN", "0"),
    ("WAIT", "0", "1"),
)


class Rights(msgspec.Struct, frozen=True):
    """What a user lacks.

    Attributes:
        commands: which it may not call, as ACL rules name them.
        keys: whether the keys of the namespace are closed to it.
    """

    commands: tuple[str, ...]
    keys: bool


def needed(keys: Keys) -> list[tuple[str, ...]]:
    """Return every command that spine sends or calls in a script, with arguments that would do nothing much."""
    key = keys.meta
    on_a_key = [(name, key, *rest) for rest, names in _ON_A_KEY.items() for name in names.split()]
    return [
        *_WITHOUT_A_KEY,
        *on_a_key,
        ("COPY", key, key),
        ("RENAME", key, key),
        ("XGROUP", "CREATE", key, "g", "0"),
        ("XINFO", "STREAM", key),
        ("XINFO", "GROUPS", key),
        ("XREAD", "STREAMS", key, "0"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", key, "0"),
    ]


async def lacking(client: Redis, keys: Keys) -> Rights:
    """Return which rights the user of `client` lacks."""
    commands = needed(keys)
    connection: Any = await client.connection_pool.get_connection()
    try:
        replies = [await _reply(connection, command) for command in (("MULTI",), *commands, ("DISCARD",))]
    finally:
        await connection.disconnect()
        await client.connection_pool.release(connection)
    denied = [
        (command, str(reply))
        for command, reply in zip((("MULTI",), *commands, ("DISCARD",)), replies, strict=True)
        if isinstance(reply, NoPermissionError)
    ]
    names = [_rule(command) for command, text in denied if "command" in text]
    return Rights(tuple(dict.fromkeys(names)), any("command" not in text for _, text in denied))


async def _reply(connection: Any, command: tuple[str, ...]) -> Any:
    await connection.send_command(*command)
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _rule(command: tuple[str, ...]) -> str:
    """Return how an ACL rule names `command`, of one with subcommands the one that is needed."""
    parts = command[:2] if command[0] in ("SCRIPT", "XGROUP", "XINFO") else command[:1]
    return "|".join(parts).lower()
