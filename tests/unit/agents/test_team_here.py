"""The whole team in one process, on some of the shipped conversations."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from agents.calendar import Calendar
from agents.concierge import Concierge
from agents.desk import Desk
from agents.document import Document
from agents.feeder import every, feed, start_run
from agents.inquiry import Inquiry
from agents.progress import Progress
from agents.provider import Provider
from agents.reading import load_dialogues, load_schema
from agents.review import Review
from agents.scheduling import Scheduling
from agents.verification import expectations, judge, read_record
from spine import Spine, Worker

TEAM = (Inquiry, Concierge, Review, Desk, Scheduling, Calendar, Provider, Document)
# One that fails and is offered again, one that is reviewed, one for a person, two in one conversation.
PLAYED = ("1_00003", "1_00009", "1_00012", "1_00010")


async def test_the_team_books_as_the_data_says(spine: Spine, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERSATIONS", str(shipped))
    schema = load_schema(shipped)
    dialogues = [dialogue for dialogue in load_dialogues(shipped) if dialogue.dialogue_id in PLAYED]
    taken_back = every(6, dialogues, schema)
    async with Worker(spine, *TEAM):
        progress = Progress(run=await start_run(spine, len(dialogues)), conversations=len(dialogues))
        await feed(spine, progress.run, dialogues, schema, taken_back=taken_back)
        async with asyncio.timeout(30), aclosing(spine.tail(after=progress.run)) as events:
            while not progress.done:
                progress.see(await anext(events))
    record = await read_record(spine, progress.run)
    verdict = judge(record, expectations(shipped, dialogues, schema), schema)
    assert verdict.faults == {}
    assert (verdict.expected, len(taken_back), progress.cancelled) == (6, 1, 1)
    assert progress.routed == {"scheduling": 4, "review": 1, "desk": 1}
