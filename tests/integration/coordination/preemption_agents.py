"""Agents with many small things to do, and urgent ones in between."""

import asyncio
import time
from typing import Any, ClassVar

from meeting import meet

from spine import Agent, Event, Handling, Priority, on

WORK_S = 0.02


class Firm(Agent):
    """What it began it ends."""

    name = "firm"
    begun: ClassVar[int] = 0

    @on("work.wanted")
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        Firm.begun += 1
        await asyncio.sleep(WORK_S)
        await ctx.publish("work.done", {"n": event.payload["n"]})

    @on("alarm.raised")
    async def alarm(self, event: Event[Any], ctx: Handling) -> None:
        """Say how long it took until this began; the clock is the same in every process of a machine."""
        after_ms = (time.monotonic() - event.payload["at"]) * 1000
        await ctx.publish("alarm.heard", {"after_ms": after_ms, "begun": Firm.begun})


class Yielding(Firm):
    """What it began may be interrupted."""

    name = "yielding"

    @on("work.wanted", preemptible=True)
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        await super().work(event, ctx)


class Idle(Agent):
    """Has nothing else to do: shows how long an urgent event takes on this machine, now."""

    name = "idle"

    @on("alarm.raised")
    async def alarm(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("alarm.noticed", {"after_ms": (time.monotonic() - event.payload["at"]) * 1000})


class FirmNarrow(Firm):
    """Holds few events at a time, so that most of a small backlog is unread."""

    name = "firm-narrow"
    prefetch = 256


class YieldingNarrow(Yielding):
    """The same, and may be interrupted."""

    name = "yielding-narrow"
    prefetch = 256


async def buy_figures(ctx: Handling) -> int:
    """Do something that must not be done twice; the log shows how often it was."""
    return (await ctx.spine.publish("figures.bought", {})).seq


class Report(Agent):
    """Waits for the test in the middle of what may be interrupted, and in the middle of what interrupts."""

    name = "report"

    @on("report.wanted", preemptible=True)
    async def report(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.step("figures", buy_figures, ctx)
        await meet(ctx, "report")
        await ctx.publish("report.done", {"attempt": ctx.attempt})

    @on("alarm.raised")
    async def alarm(self, event: Event[Any], ctx: Handling) -> None:
        await meet(ctx, "alarm")
        await ctx.publish("alarm.heard", {})


class Watch(Agent):
    """Raises the alarm, and meets the test before that is stored."""

    name = "watch"

    @on("smoke.seen")
    async def look(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("alarm.raised", {}, priority=Priority.URGENT)
        await meet(ctx, "watch")
