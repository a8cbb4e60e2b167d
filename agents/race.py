"""The race that the spine ends: `python -m agents.race` plays the conversations twice and counts early bookings.

Once as the team is, once with the gate taken out: scheduling then takes the customer's yes for a booking, at once and
on what the turn says, instead of waiting for what is complete. Everything else is the same: agents, processes,
conversations, the way a booking is made. Nothing sleeps.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agents import rules
from agents.display import out, say
from agents.events import Booking, Opened, Place, Requirement, TurnTaken
from agents.feeder import conversation_key, feed, start_run
from agents.rules import Gathering
from agents.scheduling import request_booking
from agents.team import SHIPPED, Material
from agents.workers import TEAM, Workers
from spine import Agent, Event, Handling, Spine, on, reduces

GATE_TAKEN_OUT = {**TEAM, "scheduling": "agents.race:Hasty"}
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
            run = await start_run(spine, len(material.dialogues))
            await feed(spine, run, material.dialogues, material.schema)
            await settled(spine)
        return await count_early(spine, run)


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


async def count_early(spine: Spine, run: int) -> tuple[int, int]:
    """Return (requested, too early): too early is before inquiry had completed the requirement, or without it."""
    complete: dict[Place, int] = {}
    requested: list[tuple[int, Place]] = []
    async for event in spine.replay(after=run, types=("requirement.complete", "booking.requested")):
        if event.key.startswith(conversation_key(run, "")):
            if event.type == "requirement.complete":
                complete[Requirement.model_validate(event.payload).booking.place] = event.seq
            else:
                requested.append((event.seq, Booking.model_validate(event.payload).place))
    return len(requested), sum(1 for seq, place in requested if complete.get(place, seq) >= seq)


def main(
    conversations: Annotated[Path, typer.Option(envvar="CONVERSATIONS", help="Directory of conversations.")] = SHIPPED,
    url: Annotated[
        str | None, typer.Option(envvar="SPINE_URL", help="The server; the embedded one if left out.")
    ] = None,
) -> None:
    """Play the conversations with and without the gate, and print how many bookings came too early."""
    material = Material.load(conversations)
    table = Table("scheduling", "bookings", "too early")
    code = 0
    for label, team, namespace in (
        ("without the gate", GATE_TAKEN_OUT, "race-without"),
        ("with the gate", TEAM, "race-with"),
    ):
        requested, early = asyncio.run(race(url, material, team, namespace))
        table.add_row(label, str(requested), str(early))
        code = 1 if team is TEAM and early else code
    out.print(table)
    sys.exit(code)


if __name__ == "__main__":
    typer.run(main)
