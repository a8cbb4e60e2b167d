"""The Lua scripts: one operation a file, loaded from ``spine/lua``; the server knows them by their hash."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import msgspec

from spine import clock

INCLUDE = "--@include "


class Script(msgspec.Struct, frozen=True):
    """A script and the hash that the server knows it by."""

    name: str
    source: str
    sha: str


def script(name: str) -> Script:
    """Return the script `name` of ``spine/lua``, its includes put in place."""
    return _script(name, clock.moved_ms())


@cache
def _script(name: str, moved_ms: int) -> Script:
    source = clock.moved_script(_source(name), moved_ms)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _source(name: str) -> str:
    text = files("spine.lua").joinpath(f"{name}.lua").read_text()
    return "\n".join(
        _source(line.removeprefix(INCLUDE).removesuffix(".lua")) if line.startswith(INCLUDE) else line
        for line in text.splitlines()
    )


def names() -> list[str]:
    """Return the names of all scripts."""
    found = (item.name for item in files("spine.lua").iterdir() if item.name.endswith(".lua"))
    return sorted(name.removesuffix(".lua") for name in found if not name.startswith("_"))
