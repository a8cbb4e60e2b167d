"""The Lua scripts: one operation a file, loaded from `spine/lua`, called by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from redis.exceptions import NoScriptError, RedisError

from spine.connection import Argument, Link, Server, refused

INCLUDE = "--@include "


class Script(msgspec.Struct, frozen=True):
    """A script and the hash that the server knows it by."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return the script `name` of ``spine/lua``, its includes put in place."""
    source = _source(name)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _source(name: str) -> str:
    text = files("spine.lua").joinpath(f"{name}.lua").read_text()
    lines = []
    for line in text.splitlines():
        lines.append(_source(line.removeprefix(INCLUDE).removesuffix(".lua")) if line.startswith(INCLUDE) else line)
    return "\n".join(lines)


def names() -> list[str]:
    """Return the names of all scripts."""
    found = (item.name for item in files("spine.lua").iterdir() if item.name.endswith(".lua"))
    return sorted(name.removesuffix(".lua") for name in found if not name.startswith("_"))


async def evaluate(
    link: Link,
    name: str,
    keys: Sequence[str],
    args: Sequence[Argument],
    *then: tuple[Argument, ...],
    timeout: float | None = None,
) -> list[Any]:
    """Call a script, and the commands `then` after it, in one round trip on `link`; once, without a retry.

    A server that lost its scripts is taught again unseen. Returns the replies; an error reply of the script raises
    (see `spine.connection.refused`), one of `then` is returned in place.
    """
    lua = script(name)
    call = ("EVALSHA", lua.sha, len(keys), *keys, *args)
    replies = await link.call(call, *then, timeout=timeout)
    if isinstance(replies[0], NoScriptError):
        replies = (await link.call(("SCRIPT", "LOAD", lua.source), call, *then, timeout=timeout))[1:]
    if isinstance(replies[0], RedisError):
        raise refused(replies[0]) from replies[0]
    return replies


async def run(server: Server, name: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
    """Call a script that may be called twice without harm, again and again while the server is unreachable."""

    async def once() -> Any:
        return (await evaluate(server.link, name, keys, args))[0]

    return await server.patiently(once)
