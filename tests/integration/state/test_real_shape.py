"""On a log that the reference team wrote, the state at random moments is the fold by hand, however it is had."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from ledger import by_hand, until_stored
from pydantic import BaseModel

from agents.inquiry import Inquiry
from agents.team import Material, play
from agents.workers import APP_DIR, TEAM
from spine import Event, Projection, ReplayGap, Spine, on, reduces
from spine.keys import Keys
from spine.operations.targets import load
from spine.operations.transfer import Import
from spine.testing.waiting import wait_until
from spine.worker import Worker

ROOT = Path(__file__).parents[3]
SAMPLE = Path(os.environ.get("SPINE_SAMPLE") or ROOT.parent / "shared" / "data" / "sgd-sample")
CONVERSATIONS = SAMPLE if SAMPLE.is_dir() else ROOT / "agents" / "conversations"
MOMENTS = 100


class Story(Inquiry):
    """Folds what inquiry folds, keeps every third state, and does nothing."""

    name = "story"
    start = "beginning"
    snapshot_events = 3

    @on("turn.user")
    async def complete(self, event: Event[Any]) -> None: ...  # type: ignore[override]

    @on("conversation.closed")
    async def closed(self, event: Event[Any]) -> None: ...  # type: ignore[override]


class Counted(BaseModel):
    types: dict[str, int] = {}
    last: int = 0


class Census(Projection[Counted]):
    """Counts types over all conversations."""

    name = "census"
    scope = "global"
    snapshot_events = 100

    @reduces("turn.*", "booking.*", "conversation.*")
    def count(self, state: Counted, event: Event[Any]) -> Counted:
        return Counted(types=dict(Counter(state.types) + Counter([event.type])), last=event.seq)


Points = dict[tuple[str, int], Any]


@pytest.fixture
async def others(raw: redis.asyncio.Redis) -> AsyncIterator[list[str]]:
    """Names of other namespaces, deleted after the test."""
    names = [f"test-{secrets.token_hex(8)}" for _ in range(4)]
    yield names
    for name in names:
        found = [key async for key in raw.scan_iter(match=Keys(name).all(), count=1000)]
        for start in range(0, len(found), 1000):
            await raw.unlink(*found[start : start + 1000])


async def census_by_hand(spine: Spine, moments: list[int]) -> dict[int, Counted]:
    found, state = {}, Counted()
    waiting = sorted(moments, reverse=True)
    async for event in spine.replay():
        while waiting and waiting[-1] < event.seq:
            found[waiting.pop()] = state
        if event.type.startswith(("turn.", "booking.", "conversation.")):
            types = {**state.types, event.type: state.types.get(event.type, 0) + 1}
            state = Counted(types=types, last=event.seq)
    return found | dict.fromkeys(waiting, state)


async def check(spine: Spine, wanted: Points, census: dict[int, Counted], floor: int = 0, until: int = 2**53) -> int:
    """Compare the states of the moments after `floor`, up to `until`; return how many there were."""
    checked = 0
    for (key, at), state in wanted.items():
        if floor <= at <= until:
            assert await spine.reduce(Story, key=key, at=at) == state
            checked += 1
    for at, counted in census.items():
        if floor <= at <= until:
            assert await spine.reduce(Census, at=at) == counted
    return checked


@pytest.mark.timeout(600)
@pytest.mark.parametrize("conversations", [25, pytest.param(None, marks=pytest.mark.soak)])
async def test_states_of_a_team_at_any_moment(
    url: str,
    spine: Spine,
    raw: redis.asyncio.Redis,
    others: list[str],
    monkeypatch: pytest.MonkeyPatch,
    conversations: int | None,
) -> None:
    monkeypatch.setenv("CONVERSATIONS", str(CONVERSATIONS))
    material = Material.load(CONVERSATIONS)
    material = replace(material, dialogues=material.dialogues[:conversations])
    async with Worker(spine, *(load(target, APP_DIR) for target in TEAM.values()), Story, Census):
        progress = await play(spine, material, None)
        assert progress.done
        keys = [f"{progress.run}:{dialogue.dialogue_id}" for dialogue in material.dialogues]
        for key in keys:
            await until_stored(raw, spine, Story, key, await last_folded(spine, key))
        await wait_until(lambda: nothing_before(spine))

    head = await spine.reader.head()
    chance = random.Random(11)
    moments = [chance.randrange(1, head + 1) for _ in range(MOMENTS)]
    wanted: Points = {}
    for at in moments:
        (event,) = await spine.history(until=at, types="turn.*", limit=1) or [None]
        key = chance.choice(keys) if event is None or chance.random() < 0.3 else event.key
        wanted[key, at] = await by_hand(spine, Story, key, at)
    census = await census_by_hand(spine, moments)
    assert len({state.model_dump_json() for state in wanted.values()}) > MOMENTS // 5

    # With snapshots and stored states; in forks; in an import, which has neither.
    assert await spine.snapshots(Story)
    assert await check(spine, wanted, census) == len(wanted)
    middle, floor, cut = sorted(moments)[MOMENTS // 2], sorted(moments)[MOMENTS // 4], sorted(moments)[3 * MOMENTS // 4]
    forked = await spine.fork(others[0], at=cut)
    async with Import(url, namespace=others[1]) as target:
        await target.load(spine.export())
    for name, until in ((others[0], forked.at), (others[1], head)):
        async with Spine(url, namespace=name) as copy:
            assert await check(copy, wanted, census, until=until) >= MOMENTS // 2

    # Without snapshots; then trimmed, with new snapshots and without.
    await spine.remove_snapshots(Story)
    await spine.remove_snapshots(Census)
    assert await check(spine, wanted, census) == len(wanted)
    assert (await spine.trim(until=floor, kinds=[Story, Census, Inquiry])).blockers == []
    assert await check(spine, wanted, census, floor) >= MOMENTS // 2
    for key in keys[::3]:
        await spine.snapshot(Story, key=key, at=middle)
    assert await check(spine, wanted, census, floor) >= MOMENTS // 2
    with pytest.raises(ReplayGap):
        await spine.reduce(Census, at=min(moments))

    # A fork of the trimmed log, run on: what it stores is the fold as well.
    forked = await spine.fork(others[2], at=cut)
    async with Spine(url, namespace=others[2]) as copy:
        assert await check(copy, wanted, census, floor, forked.at) >= MOMENTS // 3
        async with Worker(copy, Story, Census):
            await wait_until(lambda: nothing_before(copy, "story"))
        assert await check(copy, wanted, census, floor, forked.at) >= MOMENTS // 3


async def last_folded(spine: Spine, key: str) -> int:
    found = await spine.history(key=key, types=("turn.*", "conversation.opened"), limit=1)
    return found[0].seq


async def nothing_before(spine: Spine, agent: str | None = None) -> bool:
    await asyncio.sleep(0.05)
    lags = await spine.lag(agent)
    checks = await spine.trim(until=await spine.reader.head(), kinds=[Story, Census, Inquiry], dry_run=True)
    return all(one.total == 0 for one in lags) and not [one for one in checks.blockers if one.agent == "census"]
