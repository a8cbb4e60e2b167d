"""The form of names, keys and patterns: what is allowed, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from spine.errors import InvalidName

NAME = re.compile(r"[a-z0-9@][a-z0-9._-]{0,127}", re.ASCII)
PATTERN = re.compile(r"[a-z0-9@*][a-z0-9._*-]{0,127}", re.ASCII)
KEY_BYTES = 256
SHOWN = 160
RESERVED = "spine."

_known: set[str] = set()
_types: set[str] = set()


def plain(name: str) -> str:
    """Return the string itself of one that is a member of an enumeration, whatever that says of itself as text."""
    return str.__str__(name)


def shown(value: object) -> str:
    """Return how a value that is refused is shown; of a long one, its beginning."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def check_name(name: str, what: str = "type") -> str:
    """Return `name` when it may be a type, topic, agent or namespace, else raise `InvalidName` that says why."""
    if type(name) is str and name in _known:
        return name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidName(
            f"{what} {shown(name)} is not a valid name: use 1 to 128 of a-z 0-9 . _ - (first one a letter, digit or @)."
            " Nothing was stored."
        )
    if len(_known) < 10_000:
        _known.add(name)
    return name


def check_type(name: str) -> str:
    """Return `name` when a user may publish events of this type."""
    if type(name) is str and name in _types:
        return name
    check_name(name, "type")
    if name.startswith((RESERVED, "@")):
        raise InvalidName(
            f"type {name!r} is reserved: types starting with 'spine.' or '@' are the system's own. Nothing was stored."
        )
    if len(_types) < 10_000:
        _types.add(name)
    return name


def check_agent_name(name: str) -> str:
    """Return `name` when an agent may be called so (its inbox is ``@name``)."""
    check_name(name, "agent")
    if name.startswith("@") or len(name) > 127:
        raise InvalidName(
            f"agent {name!r}: the name stands without @ and has at most 127 characters. Nothing was stored."
        )
    return name


def check_key(key: str, what: str = "key") -> str:
    """Return `key` when it may be a key, correlation or lock name: 1 to 256 bytes of UTF-8."""
    if type(key) is str and 0 < len(key) <= KEY_BYTES and key.isascii():
        return key
    if isinstance(key, str) and key and (len(key) <= KEY_BYTES // 4 or _utf8_length(key) <= KEY_BYTES):
        _utf8_length(key)
        return key
    raise InvalidName(
        f"{what} {shown(key)} must be a non-empty string of at most {KEY_BYTES} bytes. Nothing was stored."
    )


def _utf8_length(key: str) -> int:
    try:
        return len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidName(f"key {shown(key)} is not valid UTF-8: {error.reason}. Nothing was stored.") from error


def check_pattern(pattern: str) -> str:
    """Return `pattern` when it is a name that may hold ``*``, each standing for any run of characters."""
    if not isinstance(pattern, str) or not PATTERN.fullmatch(pattern):
        raise InvalidName(
            f"{shown(pattern)} is not a valid type or pattern: use a-z 0-9 . _ - @ and * for any characters."
        )
    return pattern


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


def matcher(patterns: Iterable[str] | str | None) -> Callable[[str], bool]:
    """Return a predicate that tells whether a name matches any of `patterns` (all names when there are none)."""
    if patterns is None:
        return lambda name: True
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    if not wanted:
        return lambda name: True
    exact = frozenset(check_pattern(p) for p in wanted if "*" not in p)
    globs = [_compiled(check_pattern(p)) for p in wanted if "*" in p]
    return lambda name: name in exact or any(glob.fullmatch(name) for glob in globs)
