"""The race that the spine ends: `python -m agents.race` plays the conversations twice and counts early bookings.

Once as the team is, once with the gate taken out: scheduling then takes the customer's yes for a booking, at once and
on what the turn says, instead of waiting for what is complete. Everything else is the same: agents, processes,
conversations, the way a booking is made. Nothing sleeps. A few conversations are played often enough to keep all busy.
"""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agents import rules
from agents.display import out, say
from agents.events import Booking, Opened, Place, Requirement, Search, TurnTaken
from agents.feeder import feed, start_run
from agents.rules import Gathering
from agents.scheduling import request_booking
from agents.team import SHIPPED, Material, conclude
from agents.workers import TEAM, Workers
from spine import Agent, Event, Handling, Spine, on, reduces

GATE_TAKEN_OUT = {**TEAM, "scheduling": "agents.race:Hasty"}
CONVERSATIONS = 320  # played at least, all at once
QUIET_SECONDS = 1.0


class Hasty(Agent[Gathering]):
    """Scheduling without the gate: a yes is taken for a booking, whatever inquiry has understood so far."""

    name = "scheduling"

    @reduces("conversation.opened")
    def opened(self, known: Gathering, event: Event[Opened]) -> Gathering:
        """What can be booked."""
        return rules.opened(known, event.payload)

    @on("turn.user")
    async def book(self, event: Event[TurnTaken], ctx: Handling) -> None:
        """Book what the customer says yes to."""
        known: Gathering = ctx.state
        turn = event.payload
        for frame in turn.frames:
            if frame.state is None or not any(frame.acts("AFFIRM")):
                continue
            intent = frame.state.active_intent
            if intent in known.bookable.get(frame.service, {}):
                slots = {slot: values[0] for slot, values in frame.state.slot_values.items() if values}
                booking = Booking(
                    conversation=turn.conversation,
                    turn=turn.turn,
                    service=frame.service,
                    intent=intent,
                    parameters=slots,
                )
                await request_booking(booking, ctx)

    @on("requirement.routed")
    async def complete(self, event: Event[Requirement]) -> None:
        """What this agent should have waited for: it has booked already."""


async def race(url: str | None, material: Material, team: dict[str, str], namespace: str) -> tuple[int, int]:
    """Play the conversations with `team`; return how many bookings were requested, and how many of these too early."""
    async with Spine(url, namespace=namespace, name="feeder") as spine:
        environment = {"SPINE_NAMESPACE": namespace, "CONVERSATIONS": str(material.directory.resolve())}
        if url:
            environment["SPINE_URL"] = url
        async with Workers(1, environment, say, team) as workers:
            await workers.ready(spine)
            dialogues = material.dialogues
            runs = [await start_run(spine, len(dialogues)) for _ in range(0, CONVERSATIONS, len(dialogues))]
            at_once = len(dialogues)
            await asyncio.gather(*(feed(spine, run, dialogues, material.schema, at_once=at_once) for run in runs))
            await settled(spine)
        return await count_early(spine, runs[0])


async def settled(spine: Spine) -> None:
    """Return when no agent has anything before it, and nothing new has come for a moment."""
    head = -1
    while True:
        await asyncio.sleep(QUIET_SECONDS / 4)
        behind = sum(one.total for one in await spine.lag())
        newest = (await spine.history(limit=1))[0].seq
        if behind == 0 and newest == head:
            return
        head = newest


async def count_early(spine: Spine, after: int) -> tuple[int, int]:
    """Return (requested, too early): too early is begun before it was complete and routed to scheduling.

    A booking begins with the question to the calendars, in the log at once; the request is recorded with its outcome.
    """
    requested = 0
    complete: set[tuple[str, Place]] = set()
    early: set[tuple[str, Place]] = set()
    async for event in spine.replay(
        after=after, types=("requirement.routed", "calendar.find_slot", "booking.requested")
    ):
        run = event.key.partition(":")[0]
        if event.topic == "@scheduling":
            complete.add((run, Requirement.model_validate(event.payload).booking.place))
        elif event.type == "calendar.find_slot":
            early |= {(run, Search.model_validate(event.payload).booking.place)} - complete
        elif event.type == "booking.requested":
            requested += 1
    return requested, len(early)


def main(
    conversations: Annotated[Path, typer.Option(envvar="CONVERSATIONS", help="Directory of conversations.")] = SHIPPED,
    url: Annotated[
        str | None, typer.Option(envvar="SPINE_URL", help="The server; the embedded one if left out.")
    ] = None,
) -> None:
    """Play the conversations with and without the gate, and print how many bookings came too early."""
    conclude(run_race(conversations, url))


async def run_race(conversations: Path, url: str | None) -> int:
    """Do both, show what came of it, and return the exit code."""
    material = Material.load(conversations)
    table = Table("scheduling", "bookings", "too early")
    code = 0
    for label, team, namespace in (
        ("without the gate", GATE_TAKEN_OUT, "race-without"),
        ("with the gate", TEAM, "race-with"),
    ):
        requested, early = await race(url, material, team, namespace)
        table.add_row(label, str(requested), str(early))
        code = 1 if team is TEAM and early else code
    out.print(table)
    return code


if __name__ == "__main__":
    typer.run(main)
