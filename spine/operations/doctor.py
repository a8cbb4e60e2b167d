"""Is the server fit for a log, and is the log sound: each check a small function, its result a `Check`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from spine.connection import FORMAT, INCOMPLETE, LAYOUT, MINIMUM_VERSION
from spine.keys import Keys
from spine.operations.rights import Rights, lacking
from spine.operations.strays import Findings, find
from spine.scripts import names, script
from spine.unreachable import diagnosed

MAX_SKEW_MS = 1_000
MAX_MEMORY_PERCENT = 90
CLOCK_SAMPLES = 5

Info = Mapping[str, Any]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check.

    Attributes:
        name: what was checked.
        ok: whether it is as it should be.
        detail: what was found.
        remedy: what to do about it; empty when all is well.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


async def examine(client: Redis, url: str, namespace: str) -> AsyncIterator[Check]:
    """Yield the checks of the server at `url` and of one namespace; they change nothing.

    When the server does not answer, or does not let us look, the others are left out.
    """
    keys = Keys(namespace)
    reached = await reachable(client, url)
    yield reached
    if not reached.ok:
        return
    permitted = rights(await lacking(client, keys), keys)
    yield permitted
    if not permitted.ok:
        return
    info: dict[str, Any] = await client.info()
    for check in (version(info), role(info), eviction(info), memory(info), persistence(info)):
        yield check
    yield await scripts(client)
    yield clock(await skew_ms(client))
    known = await namespace_known(client, keys)
    yield known
    if known.ok:
        findings = await find(client, keys)
        yield counter(findings)
        yield streams(findings)
        retention: Any = await client.hget(keys.meta, "retention")
        yield bounds(retention, findings.counter)


async def reachable(client: Redis, url: str) -> Check:
    """Does it answer."""
    began = time.perf_counter()
    try:
        await client.execute_command("PING")
    except (RedisError, OSError) as error:
        detail, remedy = diagnosed(url, error)
        return Check(name="server", ok=False, detail=detail, remedy=remedy)
    return Check(name="server", ok=True, detail=f"answers in {(time.perf_counter() - began) * 1000:.1f} ms")


def version(info: Info) -> Check:
    """Is it new enough."""
    product = "valkey" if "valkey_version" in info else "redis"
    found = str(info.get(f"{product}_version", "0"))
    ok = tuple(int(part) for part in found.split(".")[:2]) >= MINIMUM_VERSION
    return Check(
        name="version", ok=ok, detail=f"{product} {found}", remedy="" if ok else "use Redis 6.2+ or Valkey 7.2+"
    )


def rights(found: Rights, keys: Keys) -> Check:
    """May this user do what spine does."""
    if found.keys:
        detail = f"this user may not touch the keys of namespace {keys.namespace}"
        remedy = f"ACL SETUSER … ~{keys.all()} (docs/server.md); the other checks are left out"
        return Check(name="rights", ok=False, detail=detail, remedy=remedy)
    if found.commands:
        remedy = f"ACL SETUSER … +{' +'.join(found.commands)} (docs/server.md); the other checks are left out"
        detail = f"this user may not call {', '.join(found.commands)}"
        return Check(name="rights", ok=False, detail=detail, remedy=remedy)
    return Check(name="rights", ok=True, detail="this user may do all that spine does")


def role(info: Info) -> Check:
    """Does it take writes."""
    if info.get("role") != "slave":
        return Check(name="role", ok=True, detail="a primary")
    primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    detail = f"a replica of {primary}: nothing can be stored here"
    return Check(name="role", ok=False, detail=detail, remedy="use the URL of its primary")


def eviction(info: Info) -> Check:
    """Does it never throw away keys to make room."""
    policy = str(info.get("maxmemory_policy", "unknown"))
    ok = policy == "noeviction"
    remedy = "" if ok else "it may drop parts of the log: set maxmemory-policy to noeviction"
    return Check(name="eviction", ok=ok, detail=f"maxmemory-policy {policy}", remedy=remedy)


def memory(info: Info) -> Check:
    """Is there room."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return Check(name="memory", ok=True, detail=f"{_megabytes(used)} used, no limit")
    percent = 100 * used / limit
    ok = percent < MAX_MEMORY_PERCENT
    detail = f"{_megabytes(used)} of {_megabytes(limit)} used ({percent:.0f} %)"
    return Check(name="memory", ok=ok, detail=detail, remedy="" if ok else "trim the log, or give it more memory")


def persistence(info: Info) -> Check:
    """Does the log survive the server."""
    on = bool(int(info.get("aof_enabled", 0)))
    if not on:
        remedy = "a crash loses events: set appendonly yes, in its configuration as well"
        return Check(name="persistence", ok=False, detail="the append-only file is off", remedy=remedy)
    status = str(info.get("aof_last_write_status", "ok"))
    if status != "ok":
        remedy = "look at its disk and its log"
        return Check(
            name="persistence", ok=False, detail=f"writing the append-only file failed: {status}", remedy=remedy
        )
    return Check(name="persistence", ok=True, detail="the append-only file is on")


async def scripts(client: Redis) -> Check:
    """Does it take our scripts."""
    for name in names():
        try:
            await client.execute_command("SCRIPT", "LOAD", script(name).source)
        except ResponseError as error:
            remedy = "allow SCRIPT, EVAL and EVALSHA to this user; see also the version"
            return Check(name="scripts", ok=False, detail=f"{name}.lua is refused: {error}", remedy=remedy)
    return Check(name="scripts", ok=True, detail=f"all {len(names())} load")


async def skew_ms(client: Redis) -> float:
    """Return how far the server's clock is ahead of this machine's, by the quickest of a few answers."""
    samples = []
    for _ in range(CLOCK_SAMPLES):
        before = time.time()
        seconds, microseconds = await client.time()
        after = time.time()
        samples.append((after - before, (seconds + microseconds / 1e6 - (before + after) / 2) * 1000))
    return min(samples)[1]


def clock(ahead_ms: float) -> Check:
    """Do server and client agree on the time: deadlines go by the server's."""
    ok = abs(ahead_ms) <= MAX_SKEW_MS
    detail = f"the server is {abs(ahead_ms):,.0f} ms {'ahead' if ahead_ms >= 0 else 'behind'}"
    return Check(name="clock", ok=ok, detail=detail, remedy="" if ok else "synchronise both clocks (NTP)")


async def namespace_known(client: Redis, keys: Keys) -> Check:
    """Is the namespace one that this version can read."""
    meta: Any = await client.hgetall(keys.meta)
    if not meta:
        return Check(name="namespace", ok=True, detail=f"{keys.namespace} does not exist yet")
    found, layout = (meta.get(field, b"").decode() for field in (b"format", b"layout"))
    if found == INCOMPLETE:
        detail = f"{keys.namespace} is being filled by a fork or an import, or that was broken off"
        remedy = f"run the same fork or import again, or spine namespace delete {keys.namespace}"
        return Check(name="namespace", ok=False, detail=detail, remedy=remedy)
    ok = (found, layout) == (FORMAT, LAYOUT)
    detail = f"{keys.namespace}: format {found}, layout {layout}, {meta.get(b'partitions', b'?').decode()} partitions"
    remedy = "" if ok else f"this version reads format {FORMAT}, layout {LAYOUT}: use the one that wrote it"
    return Check(name="namespace", ok=ok, detail=detail, remedy=remedy)


def counter(findings: Findings) -> Check:
    """Is no event beyond the counter."""
    if findings.lost:
        detail = f"the counter is at {findings.counter}, and there are events up to {findings.lost}"
        return Check(name="counter", ok=False, detail=detail, remedy="spine doctor --repair raises it")
    return Check(name="counter", ok=True, detail=f"last number given: {findings.counter}")


def streams(findings: Findings) -> Check:
    """Are there only our own entries in the streams."""
    if not findings.faults:
        return Check(name="streams", ok=True, detail=f"no stray entry in {findings.streams} streams")
    removable = any(fault.holds is None for fault in findings.faults)
    remedy = (
        "spine doctor --repair takes stray entries out" if removable else "delete the key, or use another namespace"
    )
    return Check(name="streams", ok=False, detail="; ".join(map(str, findings.faults)), remedy=remedy)


def bounds(retention: bytes | None, last: int) -> Check:
    """Does the log stay within bounds: it is no fault where it does not, but one wants to know."""
    if retention is not None:
        return Check(name="retention", ok=True, detail=f"the log keeps {_kept(retention)}")
    advice = "it grows for ever: say how long it keeps events, with `spine trim --keep` or spine.retention(keep=…)"
    return Check(name="retention", ok=True, detail="the log keeps everything", remedy=advice if last else "")


def _kept(retention: bytes) -> str:
    rule = msgspec.json.decode(retention)
    return f"events of {rule['age_s'] / 86_400:g} days" if rule.get("age_s") else f"{rule['events']:,} events"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.0f} MB"
