"""Killed at each named moment of trimming, snapshotting, forking and importing: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from ledger import Ledger, Serve, by_hand, until_stored

from spine import Draft, Event, NamespaceMismatch, Spine
from spine.keys import Keys, partition_of
from spine.operations.transfer import Import
from spine.state.fold import Cell
from spine.testing.waiting import wait_until
from spine.worker import Worker

HERE = Path(__file__).parent


async def killed(url: str, namespace: str, fault: str, *args: str) -> None:
    """Run the process until it dies at the moment `fault`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "past_process.py"),
        url,
        namespace,
        *args,
        env={**os.environ, "SPINE_FAULT": fault, "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == -signal.SIGKILL, said.decode()


async def grow(spine: Spine, count: int) -> list[Event[Any]]:
    return await spine.publish_many([Draft("money.in", {"amount": n}, key=f"k{n % 3}") for n in range(count)])


@pytest.mark.parametrize("time", [1, 3])
@pytest.mark.parametrize("fault", ["trim.bases", "trim.before", "trim.after"])
async def test_a_trim_that_was_killed_is_finished_by_the_next(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, fault: str, time: int
) -> None:
    worker = await serve(Ledger)
    for _ in range(3):
        events = await grow(spine, 900)
    for n in range(3):
        await until_stored(raw, spine, Ledger, f"k{n}", events[-1].seq - 2)
    await worker.stop()
    wanted = {
        (n, at): await by_hand(spine, Ledger, f"k{n}", at) for n in range(3) for at in (2_400, 2_500, 2_600, 2_700)
    }
    await killed(url, spine.namespace, f"{fault}:{time}", "trim", "2300")
    # Whatever is gone by now is gone with what names it, and every state can be had all the same.
    for n in range(3):
        references = await raw.lrange(spine.server.keys.by_key(_partition(n), f"k{n}"), 0, -1)  # type: ignore[misc]
        kept = [event.seq for event in await spine.history(key=f"k{n}", limit=10_000)]
        assert [int(reference.split(b":")[0]) for reference in references] == kept[::-1]
    for (n, at), state in wanted.items():
        assert await spine.reduce(Ledger, key=f"k{n}", at=at) == state
    report = await spine.trim(until=2_300, kinds=[Ledger])
    assert (report.blockers, set(report.floors.values())) == ([], {2_300})
    assert [event.seq for event in await spine.history(limit=10_000)] == list(range(2_700, 2_300, -1))
    for (n, at), state in wanted.items():
        assert await spine.reduce(Ledger, key=f"k{n}", at=at) == state


def _partition(n: int) -> int:
    return partition_of(f"k{n}", 8)


async def test_a_trim_that_was_killed_while_it_stored_states_goes_on(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    worker = await serve(Ledger)
    events = await grow(spine, 300)
    for n in range(3):
        await until_stored(raw, spine, Ledger, f"k{n}", events[-1].seq - 2)
    await worker.stop()
    await raw.delete(*[spine.server.keys.state("ledger", "1", n) for n in range(8)])
    await killed(url, spine.namespace, "trim.stored", "trim", "300")
    report = await spine.trim(until=300, kinds=[Ledger])
    assert report.blockers == []
    assert (await spine.reduce(Ledger, key="k1")).seqs == list(range(2, 301, 3))


@pytest.mark.parametrize("fault", ["snapshot.before:5", "snapshot.after:5"])
async def test_snapshots_that_were_killed_change_no_state(url: str, spine: Spine, fault: str) -> None:
    await grow(spine, 60)
    await killed(url, spine.namespace, fault, "snapshot", "60")
    for at in range(1, 61):
        assert await spine.reduce(Ledger, key="k1", at=at) == await by_hand(spine, Ledger, "k1", at)


@pytest.mark.parametrize("fault", ["commit.before:7", "commit.after:7"])
async def test_a_worker_killed_around_its_commit_of_state_and_snapshot(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, fault: str
) -> None:
    from past_process import Often

    events = await grow(spine, 60)
    await killed(url, spine.namespace, fault, "serve")
    await serve(Often)
    for n in range(3):
        cell = await until_stored(raw, spine, Often, f"k{n}", events[-1].seq - 2 + n)
        assert cell.state == await by_hand(spine, Often, f"k{n}")
        for one in await spine.snapshots(Often, key=f"k{n}"):
            assert one.events % 2 == 0
            assert await spine.reduce(Often, key=f"k{n}", at=one.seq) == await by_hand(spine, Often, f"k{n}", one.seq)


async def contents(raw: redis.asyncio.Redis, namespace: str) -> dict[str, Any]:
    """What a namespace holds, but for what clients keep for themselves."""
    keys = Keys(namespace)
    passing = ("prod:", "inbox:", "control", "meta", "epochs")
    found = {}
    async for raw_name in raw.scan_iter(match=keys.all()):
        name = raw_name.decode().removeprefix(keys.prefix)
        if not name.startswith(passing):
            found[name] = await raw.dump(raw_name)
    return found


@pytest.mark.parametrize(
    "fault",
    [
        "fork.begun",
        "fork.stream",
        "fork.streams",
        "fork.indexes",
        "fork.states",
        "fork.group:3",
        "fork.timetable",
        "fork.agents",
        "fork.ending",
    ],
)
async def test_a_fork_that_was_killed_is_finished_by_the_next(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, other: str, fault: str
) -> None:
    worker = await serve(Ledger)
    for _ in range(3):
        events = await grow(spine, 900)
    for n in range(3):
        await until_stored(raw, spine, Ledger, f"k{n}", events[-1].seq - 2)
    await worker.stop()
    await spine.update_session("k1", {"x": 1})
    scheduled = await spine.schedule("money.in", {"amount": 1}, key="k1", delay=3_600)
    await grow(spine, 30)
    before = await contents(raw, spine.namespace)
    at = events[-1].seq + 11
    await killed(url, spine.namespace, fault, "fork", other, str(at))
    with pytest.raises(NamespaceMismatch):
        await Spine(url, namespace=other).open()
    report = await spine.fork(other)
    assert (report.at, report.events, report.open) == (at, at, {"ledger": 10})
    assert await contents(raw, spine.namespace) == before
    async with Spine(url, namespace=other) as copy:
        assert await raw.zrange(copy.server.keys.due, 0, -1) == [scheduled.id.encode()]
        assert [event async for event in copy.replay()] == [event async for event in spine.replay(until=at)]
        for n in range(3):
            wanted = [event.seq async for event in spine.replay(key=f"k{n}", until=at)]
            assert [event.seq async for event in copy.replay(key=f"k{n}")] == wanted
        async with Worker(copy, Ledger):
            more = await copy.publish("money.in", {"amount": 1}, key="k1")
            cell = await until_stored(raw, copy, Ledger, "k1", more.seq)
            assert cell.state == await by_hand(copy, Ledger, "k1")


@pytest.mark.parametrize("fault", ["import.begun", "import.before:2", "import.after:2", "import.ending"])
async def test_an_import_that_was_killed_is_finished_by_the_next(
    url: str, spine: Spine, raw: redis.asyncio.Redis, other: str, tmp_path: Path, fault: str
) -> None:
    await grow(spine, 1_300)
    await spine.update_session("k1", {"x": 1})
    lines = [line async for line in spine.export()]
    export = tmp_path / "log.ndjson"
    export.write_bytes(b"\n".join(lines))
    await killed(url, other, fault, "import", str(export))
    with pytest.raises(NamespaceMismatch):
        await Spine(url, namespace=other).open()
    async with Import(url, namespace=other) as target:
        report = await target.load(lines)
    assert report.events == 1_301
    async with Spine(url, namespace=other) as copy:
        assert [event async for event in copy.replay()] == [event async for event in spine.replay()]
        assert [event.seq async for event in copy.replay(key="k1")] == [
            event.seq async for event in spine.replay(key="k1")
        ]
        assert await copy.session("k1") == {"x": 1}


@pytest.mark.parametrize("time", [1, 3])
async def test_a_projection_that_was_killed_goes_on_where_it_was_stored(
    url: str, spine: Spine, serve: Serve, raw: redis.asyncio.Redis, time: int
) -> None:
    from past_process import Counts

    await grow(spine, 5_000)
    await killed(url, spine.namespace, f"project.before:{time}", "project")
    await raw.hset(spine.server.keys.lease("counts:1", 0), "until", "0")  # type: ignore[misc]
    last = (await grow(spine, 10))[-1].seq
    await serve(Counts)

    async def stored_up_to() -> bool:
        return int(await raw.hget(spine.server.keys.own("position", "counts"), "1") or 0) >= last  # type: ignore[misc]

    await wait_until(stored_up_to)
    found = await raw.hget(spine.server.keys.state("counts", "1", 0), "")  # type: ignore[misc]
    assert Cell.decode(Counts.initial().__class__, found).state.count == 5_010  # type: ignore[arg-type]
