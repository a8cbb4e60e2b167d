"""What an acknowledged append has survived: checked beforehand, confirmed in the same round trip, or said not to be."""

from __future__ import annotations

from typing import Any, get_args

from redis.exceptions import ReadOnlyError, RedisError

from spine.connection import Argument, Server
from spine.errors import InvalidInput, NotDurable, ServerUnreachable
from spine.events import Durability

DURABILITY_TIMEOUT_MS = 5_000


def known_durability(durability: Durability) -> Durability:
    """Return `durability` when it is one. Raises `InvalidInput`."""
    if durability not in get_args(Durability):
        raise InvalidInput(f"durability is 'memory', 'disk' or 'replicas', not {durability!r}. Nothing was stored.")
    return durability


async def check_durability(server: Server, durability: Durability) -> None:
    """Refuse, before anything is stored, what `server` cannot confirm."""
    if known_durability(durability) == "disk":
        info = (await server.command("INFO", "persistence")).decode()
        if "aof_enabled:1" not in info:
            raise NotDurable(
                "durability='disk' needs the append-only file, which is off on this server (appendonly no). "
                "Nothing was stored.",
                stored=False,
            )
        if not has_waitaof(server) and not await _fsyncs_always(server):
            raise NotDurable(
                "durability='disk' needs WAITAOF (Redis 7.2+, Valkey) or appendfsync always. Nothing was stored.",
                stored=False,
            )


def has_waitaof(server: Server) -> bool:
    """Tell whether the server can wait for its append-only file."""
    return server.info.product == "valkey" or server.info.version >= (7, 2)


async def _fsyncs_always(server: Server) -> bool:
    reply = await server.command("CONFIG", "GET", "appendfsync")
    return len(reply) == 2 and reply[1] == b"always"


def confirmations(durability: Durability, touch: str | None) -> list[tuple[Argument, ...]]:
    """Return the commands that wait for `durability`.

    A repeated append may have written nothing on this connection, and the wait would prove nothing: `touch` is then
    written first.
    """
    if durability == "memory":
        return []
    commands: list[tuple[Argument, ...]] = []
    if touch is not None:
        commands.append(("SET", f"{touch}:touch", "1", "PX", 60_000))
    if durability == "disk":
        commands.append(("WAITAOF", 1, 0, DURABILITY_TIMEOUT_MS))
    else:
        commands.append(("WAIT", 1, DURABILITY_TIMEOUT_MS))
    return commands


def check_not_demoted(replies: list[Any]) -> None:
    """Raise `ServerUnreachable` when the server became a replica while it waited for durability.

    What it had stored is gone where the new primary did not get it: the same batch, repeated there, settles that.
    """
    for reply in replies:
        if isinstance(reply, ReadOnlyError) or (isinstance(reply, RedisError) and str(reply).startswith("UNBLOCKED")):
            raise ServerUnreachable(f"the server stopped being the primary: {reply}", stored=None) from reply


def unconfirmed(durability: Durability, replies: list[Any]) -> NotDurable | None:
    """Return the error to raise when the `replies` to `confirmations` do not confirm `durability`."""
    if durability == "memory":
        return None
    reply = replies[-1]
    if isinstance(reply, RedisError):
        if "unknown command" in str(reply).lower():
            return None
        return NotDurable(f"the events are in memory, but the server would not confirm more: {reply}")
    confirmed = reply[0] if isinstance(reply, list) else reply
    if confirmed >= 1:
        return None
    where = "on disk" if durability == "disk" else "on a replica"
    return NotDurable(f"the events are in memory, but not confirmed {where} within {DURABILITY_TIMEOUT_MS} ms")
