"""Keys that a test must not leave behind: those outside of any namespace, and those that would stay for ever."""

from __future__ import annotations

from typing import Any

import redis

from spine.keys import PREFIX, TEMPORARY, Keys

SCAN_COUNT = 1_000


def leftovers(client: redis.Redis, namespace: str, *, own_server: bool = True) -> list[str]:
    """Return what is wrong with the keys on a server, one sentence each.

    Args:
        client: a client of the server.
        namespace: the test's; its keys that are made for a while must have a time to live.
        own_server: nobody else uses the server: a key that is in no namespace is the test's doing.
    """
    keys = Keys(namespace)
    found: list[str] = []
    if own_server:
        found += (f"key {_text(key)!r} is in no namespace" for key in _strangers(client))
    mine = [_text(key) for key in client.scan_iter(match=keys.all(), count=SCAN_COUNT)]
    passing = [key for key in mine if key.removeprefix(keys.prefix).startswith(TEMPORARY)]
    pipeline = client.pipeline(transaction=False)
    for key in passing:
        pipeline.pttl(key)
    found += (
        f"key {key!r} is made for a while and has no time to live"
        for key, left in zip(passing, pipeline.execute(), strict=True)
        if left == -1
    )
    return sorted(found)


def clean(client: redis.Redis, namespace: str, *, strangers: bool = False) -> int:
    """Delete every key of a namespace, with `strangers` those of none as well; return how many there were."""
    found: list[Any] = list(client.scan_iter(match=Keys(namespace).all(), count=SCAN_COUNT))
    if strangers:
        found += _strangers(client)
    for start in range(0, len(found), SCAN_COUNT):
        client.unlink(*found[start : start + SCAN_COUNT])
    return len(found)


def _strangers(client: redis.Redis) -> list[Any]:
    return [key for key in client.scan_iter(count=SCAN_COUNT) if not _text(key).startswith(PREFIX)]


def _text(key: Any) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
