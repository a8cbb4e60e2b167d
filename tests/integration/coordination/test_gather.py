"""Durable gathers: what came of the questions arrives as an event, once, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes, Serve

from spine import Agent, Answers, Event, Handling, InvalidInput, NoHandler, Retry, Spine, on
from spine.testing.waiting import wait_until


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


class Panel(Agent):
    name = "panel"

    @on("survey.question", retry=Retry(attempts=1))
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        match event.payload["n"]:
            case "silent":
                await asyncio.Event().wait()
            case "fails":
                raise ValueError("no opinion")
            case "large":
                await ctx.reply({"text": "x" * 60_000})
            case "raw":
                await ctx.reply({"raw": b"\xff"})
            case "deep":
                await ctx.reply(nested(32))
            case n:
                await ctx.stream({"thinking": True})
                await ctx.reply({"n": n})


def ask(*said: Any) -> list[dict[str, Any]]:
    return [{"n": n} for n in said]


async def closed(spine: Spine, count: int = 1) -> Answers:
    events = await wait_for_events(spine, count, "survey.closed")
    assert len(events) == count
    return Answers.model_validate(events[-1].payload)


async def test_all_answers_arrive_in_the_order_of_the_questions(spine: Spine, serve: Serve) -> None:
    await serve(Panel)
    asked = await spine.gather("survey.question", ask(3, 1, 2), then="survey.closed", timeout=60)
    answers = await closed(spine)
    assert [answer.payload["n"] for answer in answers.answers] == [3, 1, 2]
    assert (answers.partial, answers.missing, answers.inline) == (False, [], True)
    (result,) = await events_of(spine, "survey.closed")
    assert result.context.correlation == asked[0].context.correlation
    replies = await events_of(spine, "survey.question.reply")
    assert [answer.seq for answer in answers.answers] == [
        next(reply.seq for reply in replies if reply.payload["n"] == n) for n in (3, 1, 2)
    ]


async def test_an_answer_may_be_bytes_and_as_deep_as_an_event_may_be(spine: Spine, serve: Serve) -> None:
    await serve(Panel)
    await spine.gather("survey.question", ask(1, "raw"), then="survey.closed", timeout=60)
    answers = await closed(spine)
    assert (answers.payloads, answers.inline) == ([{"n": 1}, {"raw": b"\xff"}], True)
    await spine.gather("survey.question", ask(1, "deep"), then="survey.closed", timeout=60)
    answers = await closed(spine, 2)
    assert (answers.payloads, answers.inline) == ([{}, {}], False)
    (deep,) = [event async for event in spine.replay(after=answers.answers[1].seq - 1, until=answers.answers[1].seq)]
    assert deep.payload == nested(32)


async def test_a_quorum_closes_it(spine: Spine, serve: Serve) -> None:
    await serve(Panel)
    await spine.gather("survey.question", ask(1, "silent", 2), then="survey.closed", quorum=2, timeout=600)
    answers = await closed(spine)
    assert not answers.partial
    assert [(missing.place, missing.why) for missing in answers.missing] == [(1, "unneeded")]


async def test_a_time_out_closes_it_with_what_there_is(spine: Spine, serve: Serve) -> None:
    await serve(Panel)
    await spine.gather("survey.question", ask(1, "silent", "fails"), then="survey.closed", timeout=0.5)
    answers = await closed(spine)
    assert answers.partial
    assert [answer.payload["n"] for answer in answers.answers] == [1]
    assert [(missing.place, missing.why) for missing in answers.missing] == [(1, "late"), (2, "failed")]
    assert answers.missing[1].error == "ValueError: no opinion"


async def test_a_quorum_out_of_reach_closes_it(spine: Spine, serve: Serve) -> None:
    await serve(Panel)
    await spine.gather("survey.question", ask("fails", "fails", "silent"), then="survey.closed", quorum=2, timeout=600)
    assert (await closed(spine)).partial


async def test_one_question_to_several_agents(spine: Spine, serve: Serve) -> None:
    class Other(Panel):
        name = "other"

    await serve(Panel, Other)
    await spine.gather("survey.question", {"n": 1}, to=["panel", "other"], then="survey.closed", timeout=60)
    assert [answer.source for answer in (await closed(spine)).answers] == ["panel", "other"]


async def test_nothing_asked_is_closed_at_once(spine: Spine, serve: Serve) -> None:
    class Idle(Agent):
        name = "idle"

        @on("survey.wanted")
        async def ask(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.gather("survey.question", [], then="survey.closed", timeout=600)

    await serve(Panel, Idle)
    await spine.publish("survey.wanted", {})
    answers = await closed(spine)
    assert (answers.answers, answers.partial) == ([], False)


async def test_answers_too_large_for_one_event_are_named(spine: Spine, serve: Serve) -> None:
    await serve(Panel)
    await spine.gather("survey.question", ask(*["large"] * 6), then="survey.closed", timeout=60)
    answers = await closed(spine)
    assert not answers.inline
    (reply,) = [e async for e in spine.replay(after=answers.answers[0].seq - 1, until=answers.answers[0].seq)]
    assert len(reply.payload["text"]) == 60_000


async def test_the_result_s_handler_answers_the_request(spine: Spine, serve: Serve) -> None:
    class Desk(Agent):
        name = "desk"

        @on("opinion.wanted")
        async def ask(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.gather("survey.question", ask(1, 2), then="survey.closed", timeout=5, hand_over=True)

        @on("survey.closed")
        async def answer(self, event: Event[Answers], ctx: Handling) -> None:
            await ctx.reply({"answers": len(event.payload)})

    await serve(Panel, Desk)
    reply = await spine.request("opinion.wanted", {}, timeout=10)
    assert reply.payload == {"answers": 2}


async def test_what_cannot_work_is_refused(spine: Spine, serve: Serve) -> None:
    with pytest.raises(NoHandler):
        await spine.gather("survey.question", ask(1), then="survey.closed", timeout=60)
    await serve(Panel)
    for options in ({"quorum": 2}, {"timeout": 0}, {"first": lambda answer: True}):
        with pytest.raises(InvalidInput):
            await spine.gather("survey.question", ask(1), then="survey.closed", **{"timeout": 60, **options})
    with pytest.raises(InvalidInput):
        await spine.gather("survey.question", ask(*range(2001)), then="survey.closed", timeout=60)
    assert await events_of(spine) == []


async def test_it_leaves_nothing_behind(spine: Spine, serve: Serve, connect: Any, raw: Any) -> None:
    for _ in range(3):
        await connect()
    await serve(Panel)
    keys = spine.server.keys
    for _ in range(20):
        await spine.gather("survey.question", ask(1, 2, "silent"), then="survey.closed", quorum=2, timeout=60)
    await wait_until(lambda: events_of(spine, "survey.closed"))
    await closed(spine, 20)
    assert not await raw.exists(keys.due)
    assert not await raw.exists(keys.scheduled)
    assert [key async for key in raw.scan_iter(match=f"{keys.prefix}gather:*")] == []


async def test_initiator_killed_before_its_commit(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("panel")
    await processes.start("gather_agents", "Panel", "Judge")
    asker = await processes.start("gather_agents", "Asker")
    await spine.publish("survey.wanted", {})
    await processes.reached("asker")
    await asker.kill()
    assert await events_of(spine, "survey.question") == []
    await processes.let_pass("asker")
    await processes.start("gather_agents", "Asker")
    await ends_once(spine, processes, raw)


async def test_initiator_killed_after_its_commit_for_good(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("asker")
    await processes.start("gather_agents", "Panel", "Judge")
    asker = await processes.start("gather_agents", "Asker")
    await spine.publish("survey.wanted", {})
    await processes.reached("panel", 4)
    await asker.kill()
    await processes.let_pass("panel")
    await ends_once(spine, processes, raw)


async def test_participant_killed(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("asker")
    await processes.start("gather_agents", "Asker", "Judge")
    panel = await processes.start("gather_agents", "Panel")
    await spine.publish("survey.wanted", {})
    await processes.reached("panel", 4)
    await panel.kill()
    await processes.let_pass("panel")
    await processes.start("gather_agents", "Panel")
    await ends_once(spine, processes, raw)


async def test_both_late(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("asker", "panel"):
        await processes.let_pass(place)
    everybody = await processes.start("gather_agents", "Asker", "Panel", "Judge")
    await everybody.kill()
    await spine.publish("survey.wanted", {})
    asker = await processes.start("gather_agents", "Asker")
    await wait_for_events(spine, 10, "survey.question")
    await asker.kill()
    await processes.start("gather_agents", "Panel")
    await wait_for_events(spine, 1, "survey.closed")
    await processes.start("gather_agents", "Judge")
    await ends_once(spine, processes, raw)


async def ends_once(spine: Spine, processes: Processes, raw: Any) -> None:
    await wait_for_events(spine, 1, "survey.decided")
    await processes.let_pass("never")
    await processes.start("gather_agents", "Panel", "Asker", "Judge")
    await nothing_left_to_do(spine)
    (decided,) = await events_of(spine, "survey.decided")
    assert decided.payload == {"sum": sum(range(8)), "of": 8}
    assert len(await events_of(spine, "survey.closed")) == 1
    assert len(await events_of(spine, "survey.question")) == 10
    assert sorted(event.payload["n"] for event in await events_of(spine, "survey.answered")) == list(range(10))
