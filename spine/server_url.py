"""The URL of a server: reading it, refusing what is none, and showing it without its password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from spine.errors import InvalidInput, Misconfigured
from spine.link import COMMAND_TIMEOUT_S

UNREADABLE = (
    "it cannot be read (its port, database or options); in a password, write / # ? @ and : as %2F %23 %3F %40 %3A"
)
UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")


def redacted(url: str) -> str:
    """Return `url` without its password, also where the password's own "/", "#" or "@" break the URL.

    Of a login that is one word, nobody knows whether it is the name or the password: it goes.
    """
    shown = re.sub(r"([?&]password=)[^&#]*", r"\1***", url)
    shown = re.sub(r"(//[^:/@]*:).*@", r"\1***@", shown, flags=re.DOTALL)
    return re.sub(r"(//)[^:/?#@]+@", r"\1***@", shown)


def pool(url: str, **options: Any) -> ConnectionPool:
    """Return what opens connections to the server at `url`, with no retries of its own; nothing is opened yet.

    Raises:
        Misconfigured: `url` cannot be read, names an option that there is none of, or a file that is not there.
    """
    if not isinstance(url, str):
        raise InvalidInput(f"the URL of a server is text, not {type(url).__name__}")
    if url.startswith("memory://"):
        from spine.testing.memory import memory_pool

        return memory_pool(url)
    given: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "decode_responses": False,
        **options,
    }
    if not url.startswith("unix://"):
        given["socket_keepalive"] = True
    try:
        _check_database(url)
        _check_files(url)
        found = ConnectionPool.from_url(url, **given)
        found.make_connection()  # opens nothing, and takes the options that the URL names
    except (ValueError, TypeError, RedisError) as error:
        raise _not_a_url(url, error) from None
    return found


def check_url(url: str) -> None:
    """Raise `Misconfigured` where `pool` would."""
    pool(url)


def _not_a_url(url: str, error: Exception) -> Misconfigured:
    """Return the error for a `url` that cannot be read.

    The parser's own words quote what it took for the port, which can be a piece of the password.
    """
    shown = redacted(url)
    reason = str(error) if shown == url else UNREADABLE
    if unknown := UNKNOWN_OPTION.search(str(error)):
        reason = f"there is no option {unknown[1]!r}"
    return Misconfigured(
        f"{shown!r} is not a URL of a server: {reason}. Use redis://, rediss://, unix:// or memory://."
    )


def _check_database(url: str) -> None:
    """Refuse a database that is no number: redis-py would take the first one instead."""
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?\d*/?", parts.path, re.ASCII):
        raise ValueError(f"the database {parts.path!r} is no number")


def _check_files(url: str) -> None:
    """Refuse certificates that are not there: connecting would only say that *some* file is missing."""
    options = parse_qs(urlsplit(url).query)
    for name in FILES:
        for file in options.get(name, ()):
            if not Path(file).exists():
                raise ValueError(f"{name}: there is no file {file!r}")
