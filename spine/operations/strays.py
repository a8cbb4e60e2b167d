"""Entries that spine did not write: finding them in the streams of a namespace, and taking them out.

The id of every entry of the log is ``<seq>-0`` with a seq that the counter has given. One entry beyond the counter (as
``XADD … *`` makes it) blocks its stream: nothing with a lower id is accepted behind it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from spine.codec import decode_entry
from spine.errors import DecodeError
from spine.keys import Keys
from spine.scripts import script

PAGE = 500
# An event of ours beyond the counter by less than this: the counter was lost. Beyond that: somebody wrote the entry.
LOST_COUNTER_SPAN = 100_000_000_000


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one stream.

    Attributes:
        key: the stream.
        strays: ids of entries that spine did not write.
        blocked: nothing can be appended until it is repaired.
        holds: what the key holds when that is not a stream.
        is_bell: it is one that clients listen to, not one of the log.
    """

    key: str
    strays: list[str] = []
    blocked: bool = False
    holds: str | None = None
    is_bell: bool = False

    def __str__(self) -> str:
        if self.holds is not None:
            return f"{self.key} holds a {self.holds}, not a stream"
        shown = ", ".join(self.strays[:3]) + (f" and {len(self.strays) - 3:,} more" if len(self.strays) > 3 else "")
        what = f"stray entry {shown}" if self.strays else "its last id is beyond the counter"
        return f"{self.key}: {what}" + (" (blocks every append)" if self.blocked else "")


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a namespace.

    Attributes:
        streams: how many were looked at.
        counter: the last number given.
        lost: the highest number of an event of ours beyond the counter; 0 when there is none.
        faults: the streams that something is wrong with.
    """

    streams: int
    counter: int
    lost: int
    faults: list[Fault]


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at one key gave: ids that do not end in -0; ids beyond the counter, and whether they are ours."""

    key: str
    last_id: str = "0-0"
    odd: list[str] = []
    beyond: list[tuple[str, bool]] = []
    holds: str | None = None


async def find(client: Redis, keys: Keys) -> Findings:
    """Look through every stream of the log, in pages: constant memory, and no long call on the server."""
    names = await _stream_keys(client, keys)
    before = await _counter(client, keys)
    looks: list[_Look] = []
    for start in range(0, len(names), PAGE):
        async for look in _look(client, names[start : start + PAGE], before):
            if look.odd or look.holds or _number(look.last_id) > before:
                looks.append(look)
    # Read last: what was appended meanwhile is below it.
    counter = await _counter(client, keys)
    lost = max((_number(entry) for look in looks for entry, ours in look.beyond if ours), default=0)
    lost = lost if lost > counter else 0
    bells = frozenset(await _bells(client, keys))
    faults = [_judge(look, max(counter, lost), look.key in bells) for look in looks]
    return Findings(
        streams=len(names), counter=counter, lost=lost, faults=[fault for fault in faults if fault is not None]
    )


def _judge(look: _Look, limit: int, is_bell: bool) -> Fault | None:
    """Return what is wrong with a stream whose numbers may go up to `limit`."""
    if look.holds is not None:
        return Fault(key=look.key, blocked=True, holds=look.holds)
    strays = dict.fromkeys([entry for entry, _ in look.beyond if _number(entry) > limit] + look.odd)
    blocked = _number(look.last_id) > limit
    return Fault(key=look.key, strays=list(strays), blocked=blocked, is_bell=is_bell) if strays or blocked else None


async def repair(client: Redis, keys: Keys, findings: Findings) -> list[str]:
    """Mend what `findings` says, each stream at once or not at all; return what was done, a sentence each.

    A key that holds something else than a stream is left alone.
    """
    done = []
    if findings.lost:
        await _repair(client, keys, Fault(key=keys.own("none")), findings.lost)
        done.append(f"the counter was raised from {findings.counter} to {findings.lost}")
    for fault in findings.faults:
        if fault.holds is not None:
            continue
        removed, anew = await _repair(client, keys, fault, findings.lost)
        done.append(f"{fault.key}: {removed} stray entries taken out" + (", the stream written anew" if anew else ""))
    return done


async def _repair(client: Redis, keys: Keys, fault: Fault, floor: int) -> tuple[int, int]:
    names = (keys.seq, fault.key, keys.own("repair"), keys.meta, keys.epochs)
    epoch = secrets.token_hex(4) if fault.is_bell else ""
    source = script("repair").source
    removed, anew = await client.eval(source, len(names), *names, str(floor), epoch, *fault.strays)
    return removed, anew


async def _stream_keys(client: Redis, keys: Keys) -> list[str]:
    found = await _bells(client, keys)
    partitions = range(len(found))
    names: Any = await client.hkeys(keys.streams)
    for name in sorted(raw.decode() for raw in names):
        lane, topic = name.split("/", 1)
        found += (keys.log(partition, int(lane), topic) for partition in partitions)
    return found


async def _bells(client: Redis, keys: Keys) -> list[str]:
    return [keys.bell(partition) for partition in range(int(await client.hget(keys.meta, "partitions") or 0))]


async def _counter(client: Redis, keys: Keys) -> int:
    return int(await client.get(keys.seq) or 0)


async def _look(client: Redis, names: Sequence[str], counter: int) -> AsyncIterator[_Look]:
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.execute_command("TYPE", name)
        kinds = [kind.decode() for kind in await pipe.execute()]
    for name, kind in zip(names, kinds, strict=True):
        if kind == "stream":
            try:
                yield await _look_into(client, name, counter)
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise
        elif kind != "none":
            yield _Look(key=name, holds=kind)


async def _look_into(client: Redis, name: str, counter: int) -> _Look:
    flat: Any = await client.execute_command("XINFO", "STREAM", name)
    info = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=False))
    last_id = (info.get("last-generated-id") or info[b"last-generated-id"]).decode()
    beyond = [item async for item in _beyond(client, name, counter)] if _number(last_id) > counter else []
    odd = [entry async for entry in _odd(client, name)]
    return _Look(key=name, last_id=last_id, odd=odd, beyond=beyond)


async def _odd(client: Redis, name: str) -> AsyncIterator[str]:
    """Yield the ids of stream `name` that do not end in -0."""
    source, position = script("strays").source, b"-"
    while position:
        position, *found = await client.eval(source, 1, name, position, PAGE)
        for entry in found:
            yield entry.decode()


async def _beyond(client: Redis, name: str, counter: int) -> AsyncIterator[tuple[str, bool]]:
    """Yield the ids of stream `name` beyond the counter, and whether the entry is an event of ours."""
    position = f"({counter}-18446744073709551615"
    while True:
        page: Any = await client.execute_command("XRANGE", name, position, "+", "COUNT", PAGE)
        for raw_id, fields in page:
            entry = raw_id.decode()
            yield entry, _number(entry) - counter < LOST_COUNTER_SPAN and _is_event(raw_id, fields)
        if len(page) < PAGE:
            return
        position = f"({page[-1][0].decode()}"


def _is_event(raw_id: bytes, fields: Any) -> bool:
    try:
        decode_entry(
            "", [raw_id, [item for pair in fields.items() for item in pair] if isinstance(fields, dict) else fields]
        )
    except DecodeError:
        return False
    return True


def _number(entry: str) -> int:
    return int(entry.partition("-")[0])
