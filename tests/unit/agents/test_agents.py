"""What each agent says, and the whole team in one process."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from agents.concierge import Concierge
from agents.dialogue import load_dialogues, load_schema
from agents.document import Document, confirmation
from agents.events import Booking
from agents.feeder import feed, start_run
from agents.inquiry import Inquiry
from agents.progress import Progress
from agents.provider import Provider
from agents.scheduling import Scheduling
from agents.verification import Verdict, expectations, judge, read_record
from spine import Spine, Worker

BOOKING = Booking(
    conversation="c", turn=4, service="Taxi_1", intent="CallTaxi", parameters={"where": "Old Mill", "pick_up": "12:00"}
)


def test_a_confirmation_names_everything_that_was_booked() -> None:
    assert confirmation(BOOKING) == "Confirmed: CallTaxi with Taxi_1\n  pick up: 12:00\n  where: Old Mill"


def test_a_booking_reads_as_a_sentence_would_have_it() -> None:
    assert str(BOOKING) == "CallTaxi with Taxi_1 (where Old Mill, pick up 12:00)"


def test_every_agent_goes_by_the_name_of_its_file() -> None:
    for agent in (Inquiry, Scheduling, Provider, Document, Concierge):
        assert agent.__module__ == f"agents.{agent.name}"


async def run_here(spine: Spine, directory: Path) -> Verdict:
    """Let the team work through a directory, all of it in this process."""
    dialogues, schema = load_dialogues(directory), load_schema(directory)
    async with Worker(spine, Inquiry, Scheduling, Provider, Document, Concierge):
        progress = Progress(run=await start_run(spine, len(dialogues)), conversations=len(dialogues))
        await feed(spine, progress.run, dialogues, schema)
        async with asyncio.timeout(30), aclosing(spine.tail(after=progress.run)) as events:
            while not progress.done:
                progress.see(await anext(events))
    return judge(await read_record(spine, progress.run), expectations(directory, dialogues, schema), schema)


async def test_the_team_books_as_the_data_says(spine: Spine, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERSATIONS", str(shipped))
    verdict = await run_here(spine, shipped)
    assert (verdict.faults, verdict.requested) == ({}, 19)


async def test_a_provider_that_knows_no_outcomes_confirms(
    spine: Spine, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONVERSATIONS", raising=False)
    verdict = await run_here(spine, shipped)
    assert verdict.requested == 19
    assert {name: len(places) for name, places in verdict.faults.items()} == {"contrary": 5}
