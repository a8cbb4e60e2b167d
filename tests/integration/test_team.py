"""The whole reference team as real processes: exact bookings, whatever is killed; nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from agents.progress import Progress
from agents.race import GATE_TAKEN_OUT, race
from agents.team import Material, play, verdict_on
from agents.workers import PROCESSES, TEAM, Workers
from spine import Spine
from spine.delivery.leases import BEAT_S, LEASE_S

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "agents" / "conversations"
SAMPLE = Path(os.environ.get("SPINE_SAMPLE") or ROOT.parent / "shared" / "data" / "sgd-sample")
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no sample conversations in {SAMPLE}")
Bookings = Counter[tuple[str, int, str, str, tuple[tuple[str, str], ...]]]


@contextlib.asynccontextmanager
async def team(
    url: str, namespace: str, conversations: Path | None, per_agent: int = 1
) -> AsyncIterator[tuple[Spine, list[str]]]:
    """Yield a client of a team that is ready, and what the team reports."""
    reports: list[str] = []
    environment = {"SPINE_URL": url, "SPINE_NAMESPACE": namespace, "CONVERSATIONS": str(conversations or "")}
    async with (
        Spine(url, namespace=namespace, name="feeder") as spine,
        Workers(per_agent, environment, reports.append) as workers,
    ):
        await workers.ready(spine)
        yield spine, reports


def recorded(directory: Path) -> Bookings:
    """Return the bookings of the data with their required parameters, read without the team's own readers."""
    schema = {service["service_name"]: service for service in json.loads((directory / "schema.json").read_text())}
    found: Bookings = Counter()
    for file in directory.glob("*dialogues_*.json"):
        for dialogue in json.loads(file.read_text()):
            for index, turn in enumerate(dialogue["turns"]):
                for frame in turn["frames"]:
                    call = frame.get("service_call", {"method": None})
                    for intent in schema[frame["service"]]["intents"]:
                        if intent["name"] == call["method"] and intent["is_transactional"]:
                            required = tuple(
                                (slot, call["parameters"][slot]) for slot in sorted(intent["required_slots"])
                            )
                            found[dialogue["dialogue_id"], index - 1, frame["service"], call["method"], required] += 1
    return found


async def requested(spine: Spine, directory: Path) -> Bookings:
    """Return what the team requested, as the log has it."""
    schema = {service["service_name"]: service for service in json.loads((directory / "schema.json").read_text())}
    required = {
        (name, intent["name"]): sorted(intent["required_slots"])
        for name, service in schema.items()
        for intent in service["intents"]
    }
    found: Bookings = Counter()
    async for event in spine.replay(types="booking.requested"):
        booking = event.payload
        slots = required[booking["service"], booking["intent"]]
        parameters = tuple((slot, booking["parameters"][slot]) for slot in slots)
        found[booking["conversation"], booking["turn"], booking["service"], booking["intent"], parameters] += 1
    return found


async def places(spine: Spine, type: str, *more: str) -> Counter[tuple[Any, ...]]:
    fields = ("conversation", "turn", "service", "intent", *more)
    return Counter([tuple(event.payload[name] for name in fields) async for event in spine.replay(types=type)])


async def test_the_shipped_conversations_end_as_the_data_says(url: str, namespace: str) -> None:
    material = Material.load(SHIPPED)
    async with team(url, namespace, SHIPPED) as (spine, reports):
        progress = await play(spine, material, None)
        verdict = await verdict_on(spine, progress.run, material)
        assert (verdict.faults, verdict.requested, reports) == ({}, 19, [])
        assert await requested(spine, SHIPPED) == recorded(SHIPPED)
        assert await places(spine, "document.ready") == await places(spine, "booking.confirmed")
        assert (progress.confirmed, progress.failed, len(progress.latencies_s)) == (14, 5, 19)
        assert progress.routed == {"scheduling": 17, "review": 1, "desk": 1}


async def test_without_outcomes_in_the_data_the_same_bookings_are_requested_and_all_confirmed(
    url: str, namespace: str, tmp_path: Path
) -> None:
    for file in SHIPPED.glob("*.json"):
        (tmp_path / file.name).write_text(json.dumps(_without_outcomes(json.loads(file.read_text()))))
    material = Material.load(tmp_path)
    async with team(url, namespace, tmp_path) as (spine, _):
        progress = await play(spine, material, None)
        verdict = await verdict_on(spine, progress.run, material)
        assert verdict.faults == {}
        assert await requested(spine, SHIPPED) == recorded(SHIPPED)
        assert (progress.confirmed, progress.failed) == (19, 0)


def _without_outcomes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_outcomes(one) for one in value]
    if isinstance(value, dict):
        kept = value.keys() - {"service_call", "service_results"}
        return {name: _without_outcomes(one) for name, one in value.items() if name in kept}
    return value


@needs_sample
@pytest.mark.data
@pytest.mark.parametrize("per_agent", [1, 2])
async def test_the_sample_gives_exactly_its_bookings(url: str, namespace: str, per_agent: int) -> None:
    material = Material.load(SAMPLE)
    async with team(url, namespace, SAMPLE, per_agent) as (spine, reports):
        progress = await play(spine, material, None)
        await _exactly_the_sample(spine, progress, material)
        assert progress.routed == {"scheduling": 123, "review": 24, "desk": 17}
        assert reports == []


@needs_sample
@pytest.mark.data
@pytest.mark.parametrize("agents", PROCESSES, ids=", ".join)
async def test_a_worker_killed_in_mid_run_changes_nothing(url: str, namespace: str, agents: tuple[str, ...]) -> None:
    """The one that takes its place goes on where it stood, and waits for no lease to end."""
    material = Material.load(SAMPLE)
    async with team(url, namespace, SAMPLE) as (spine, reports), asyncio.TaskGroup() as group:
        killing = group.create_task(_kill_when(spine, agents[0], lambda: _count(spine, "booking.requested", 20)))
        progress = await play(spine, material, rate=2000)
        await killing
        await _exactly_the_sample(spine, progress, material)
        assert reports == [f"{', '.join(agents)} ended with -9; another one takes its place"]
        assert max(progress.latencies_s) < LEASE_S - BEAT_S


@needs_sample
@pytest.mark.data
@pytest.mark.parametrize("killed", [None, "scheduling", "provider"])
async def test_what_customers_take_back_is_cancelled_and_all_else_is_booked(
    url: str, namespace: str, killed: str | None
) -> None:
    """Every fourth booking is taken back as soon as it is agreed: cancelled once, unless it failed anyway."""
    material = Material.load(SAMPLE)
    async with team(url, namespace, SAMPLE) as (spine, reports), asyncio.TaskGroup() as group:
        if killed:
            group.create_task(_kill_when(spine, killed, lambda: _count(spine, "booking.requested", 20)))
        progress = await play(spine, material, 2000 if killed else None, cancel=4)
        verdict = await verdict_on(spine, progress.run, material)
        taken_back = await places(spine, "customer.cancelled")
        gone = await places(spine, "booking.cancelled") + await places(spine, "booking.failed")
        assert (verdict.faults, len(taken_back), len(reports)) == ({}, 41, 1 if killed else 0)
        assert taken_back - gone == Counter()
        assert verdict.requested == 164 - (progress.cancelled - progress.undone)


async def _exactly_the_sample(spine: Spine, progress: Progress, material: Material) -> None:
    verdict = await verdict_on(spine, progress.run, material)
    assert (verdict.faults, verdict.requested) == ({}, 164)
    assert await requested(spine, SAMPLE) == recorded(SAMPLE)
    assert await places(spine, "document.ready") == await places(spine, "booking.confirmed")
    booked = await places(spine, "booking.confirmed") + await places(spine, "booking.failed")
    assert await places(spine, "provider.book") == booked


async def _kill_when(spine: Spine, agent: str, ripe: Callable[[], Awaitable[None]]) -> None:
    await ripe()
    (worker,) = await spine.workers(agent)
    os.kill(worker.pid, signal.SIGKILL)


async def _count(spine: Spine, type: str, count: int) -> None:
    """Return when `count` events of a type are in the log."""
    async for _ in spine.tail(types=type, after=0):
        count -= 1
        if not count:
            return


# --- the program ---


async def program(url: str, namespace: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agents.team", *arguments),
        env={**os.environ, "SPINE_URL": url, "SPINE_NAMESPACE": namespace},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def table(text: bytes) -> dict[str, str]:
    rows = (line.strip("│ ").split("│") for line in text.decode().splitlines() if line.startswith("│"))
    return {name.strip(): value.strip() for name, value in rows}


async def test_a_run_ends_with_its_table_and_a_second_one_goes_on_from_it(url: str, namespace: str) -> None:
    for runs, arguments in ((1, ()), (2, ()), (1, ("--fresh",))):
        process = await program(url, namespace, *arguments)
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        figures = table(out)
        assert (figures["conversations"], figures["bookings"]) == ("16", "19")
        assert (figures["bookings made too early"], figures["bookings missing"]) == ("0", "0")
        assert b"16/16 conversations" in err
        async with Spine(url, namespace=namespace) as spine:
            assert len(await spine.history(types="run.started")) == runs
            assert await spine.workers("scheduling") == []


async def test_a_run_says_whose_workers_are_there_already(url: str, namespace: str) -> None:
    async with team(url, namespace, SHIPPED) as (spine, _):
        others = {worker.pid for agent in TEAM for worker in await spine.workers(agent)}
        process = await program(url, namespace)
        out, err = await process.communicate()
    assert (process.returncode, table(out)["bookings"]) == (0, "19")
    assert f"take part: process {', '.join(map(str, sorted(others)))}\n" in err.decode()


async def test_ctrl_c_leaves_no_process_behind(url: str, namespace: str) -> None:
    process = await program(url, namespace, "--rate", "5", "--workers", "2")
    async with Spine(url, namespace=namespace) as spine:
        await asyncio.wait_for(_count(spine, "turn.user", 1), 60)
        workers = [worker.pid for agent in TEAM for worker in await spine.workers(agent)]
        assert len(workers) == 2 * len(TEAM)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130, err.decode()
    assert err.decode().endswith("stopped\n")
    assert not [pid for pid in workers if _exists(pid)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_directory_without_conversations_is_refused_in_one_line(
    url: str, namespace: str, tmp_path: Path
) -> None:
    process = await program(url, namespace, "--conversations", str(tmp_path))
    _, err = await process.communicate()
    assert (process.returncode, len(err.decode().splitlines())) == (1, 1)
    assert "no dialogues_*.json" in err.decode()


async def test_a_conversation_that_no_event_can_hold_is_named_in_one_line(
    url: str, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text("[]")
    turns = [{"speaker": "USER", "utterance": "x" * 300_000}]
    (tmp_path / "dialogues_001.json").write_text(json.dumps([{"dialogue_id": "long", "turns": turns}]))
    process = await program(url, namespace, "--conversations", str(tmp_path))
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "conversation long cannot be played: the event 'turn.user' has 300," in err.decode().splitlines()[-1]


@needs_sample
async def test_the_race_is_there_without_the_gate_and_gone_with_it(url: str, namespace: str) -> None:
    material = Material.load(SAMPLE)
    requested, early = await race(url, material, GATE_TAKEN_OUT, namespace)
    assert requested >= early > 0
    async with redis.asyncio.Redis.from_url(url) as client:
        async for key in client.scan_iter(match=f"spine:{{{namespace}}}:*"):
            await client.delete(key)
    assert await race(url, material, TEAM, namespace) == (164, 0)
