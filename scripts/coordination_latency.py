"""Agents that ask each other against agents that read one log: the same team, the same work, measured side by side.

    python -m scripts.coordination_latency --json bench-results/coordination.json --plot bench-results/coordination.png

Each arm runs as real processes, one for each agent, on a server of its own. Load is given as the share of its time that
an agent spends on its own turns; conversations arrive at random (Poisson), the same in every arm. Latency is the time
between the last turn of a conversation and its booking, both stamped by the server. CPU is that of the agents'
processes and of the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from scripts.coordination_team import TEAM, TURNS, WORK_S
from spine import Spine
from spine.testing.servers import RedisServer

ARMS = ("facts", "queued", "beside")
LOADS = (0.2, 0.4, 0.6, 0.8)
SETTLE_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


class Point(msgspec.Struct):
    """What one arm did at one load."""

    arm: str
    load: float
    conversations: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    calls: float
    early: int


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def start_team(url: str, arm: str) -> list[asyncio.subprocess.Process]:
    """Start one worker process for each agent."""
    environment = {**os.environ, "SPINE_URL": url, "EXPERIMENT_MODE": arm, "SPINE_NAMESPACE": "experiment"}
    return [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spine", "run", f"scripts.coordination_team:{agent.__name__}", "-c", "256",
            env=environment, stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        )
        for agent in TEAM
    ]  # fmt: skip


async def ready(spine: Spine) -> None:
    """Wait until every agent holds all its partitions."""
    from spine.delivery.leases import survey

    async with asyncio.timeout(SETTLE_S):
        while True:
            surveys = [await survey(spine.server, agent.name) for agent in TEAM]
            if all(all(holding.owner for holding in one.holdings.values()) for one in surveys):
                return
            await asyncio.sleep(0.05)


async def converse(spine: Spine, conversation: str, gap_s: float) -> None:
    """Publish the turns of one conversation; the customer waits a little between them."""
    for turn in range(1, TURNS + 1):
        await spine.publish("turn.received", {"conversation": conversation, "turn": turn}, key=conversation)
        if turn < TURNS:
            await asyncio.sleep(gap_s)


async def play(spine: Spine, load: float, seconds: float, seed: int) -> int:
    """Let conversations arrive for `seconds`; return how many."""
    rate = load / (TURNS * WORK_S)
    chance = random.Random(seed)
    count = 0
    loop = asyncio.get_running_loop()
    end = next_at = loop.time()
    end += seconds
    async with asyncio.TaskGroup() as group:
        while (next_at := next_at + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            count += 1
            group.create_task(converse(spine, f"c{count}", 10 * WORK_S))
    return count


async def collect(spine: Spine, count: int) -> tuple[list[float], int, int]:
    """Wait for every booking; return latencies in ms, early bookings, and calls between agents."""
    last_turn: dict[str, float] = {}
    booked: dict[str, float] = {}
    early = calls = 0
    async with asyncio.timeout(SETTLE_S):
        async for event in spine.tail(after=0):
            payload = event.payload
            if event.type == "turn.received" and payload["turn"] == TURNS:
                last_turn[payload["conversation"]] = event.ts.timestamp()
            elif event.type.startswith("ask.") and event.topic == event.type:
                calls += 1
            elif event.type == "booking.made":
                booked[payload["conversation"]] = event.ts.timestamp()
                early += bool(payload["early"])
            if len(booked) == count == len(last_turn):
                break
    return [(booked[name] - last_turn[name]) * 1000 for name in booked], early, calls


async def measure(arm: str, load: float, seconds: float, seed: int) -> Point:
    """Run one arm at one load on a fresh server."""
    with tempfile.TemporaryDirectory() as directory, RedisServer.start(Path(directory)) as server:
        team = await start_team(server.url, arm)
        try:
            async with Spine(server.url, namespace="experiment") as spine:
                await ready(spine)
                pids = [process.pid for process in team] + [server.pid]
                before = sum(map(cpu_s, pids))
                count = await play(spine, load, seconds, seed)
                latencies, early, calls = await collect(spine, count)
                used = sum(map(cpu_s, pids)) - before
        finally:
            for process in team:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
            await asyncio.gather(*(process.wait() for process in team))
    quantiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
    return Point(arm, load, count, quantiles[49], quantiles[98], used * 1000 / count, calls / count, early)


def show(points: list[Point], console: Console) -> None:
    """Print the table."""
    table = Table(title=f"last turn → booking; work {WORK_S * 1000:.0f} ms a turn and agent, {TURNS} turns")
    for title in ("load", "arm", "conversations", "p50 ms", "p99 ms", "CPU ms each", "calls each", "too early"):
        table.add_column(title, justify="left" if title == "arm" else "right")
    for point in sorted(points, key=lambda point: (point.load, ARMS.index(point.arm))):
        table.add_row(
            f"{point.load:.0%}", point.arm, str(point.conversations), f"{point.p50_ms:.0f}", f"{point.p99_ms:.0f}",
            f"{point.cpu_ms:.1f}", f"{point.calls:.1f}", str(point.early),
        )  # fmt: skip
    console.print(table)


def plot(points: list[Point], path: Path) -> bool:
    """Draw p50 and p99 over load; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4))
    for axes, metric in zip(panels, ("p50_ms", "p99_ms"), strict=True):
        for arm in ARMS:
            line = sorted((point.load, getattr(point, metric)) for point in points if point.arm == arm)
            axes.plot([load for load, _ in line], [value for _, value in line], marker="o", label=arm)
        axes.set(xlabel="load", ylabel="ms", title=metric.removesuffix("_ms"), ylim=(0, None))
        axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def main(
    seconds: Annotated[float, typer.Option(help="How long conversations arrive, for each arm and load.")] = 15.0,
    load: Annotated[list[float] | None, typer.Option(help="Share of an agent's time; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 7,
    json_to: Annotated[Path, typer.Option("--json")] = Path("bench-results/coordination.json"),
    plot_to: Annotated[Path, typer.Option("--plot")] = Path("bench-results/coordination.png"),
) -> None:
    """Measure every arm at every load, one after another, and print one table."""
    console = Console()
    points: list[Any] = []
    for share in load or LOADS:
        for arm in ARMS:
            points.append(asyncio.run(measure(arm, share, seconds, seed)))
            print(f"{share:.0%} {arm} done", file=sys.stderr)
    show(points, console)
    json_to.parent.mkdir(parents=True, exist_ok=True)
    json_to.write_text(json.dumps(msgspec.to_builtins(points), indent=1))
    plot(points, plot_to)


if __name__ == "__main__":
    typer.run(main)
