"""Fan-outs: the wait ends when enough have answered, and nothing is asked twice whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from seen_events import events_of
from worker_processes import Serve

from spine import Agent, Answer, Context, Event, Handling, NoHandler, RequestTimeout, Retry, Spine, on
from spine.coordination.answers import best


class Dealer(Agent):
    """Answers at once, later than anybody waits, or not at all."""

    name = "dealer"
    refused = asyncio.Event

    @on("quote.wanted", retry=Retry(attempts=1))
    async def quote(self, event: Event[Any], ctx: Handling) -> None:
        n = event.payload["n"]
        if n >= event.payload.get("silent_from", 1000):
            await asyncio.Event().wait()
        if n in event.payload.get("fails", ()):
            raise ValueError(f"no price for {n}")
        await ctx.reply({"n": n, "confidence": n / 100})


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"n": n, **more} for n in range(count)]


async def test_answers_come_in_the_order_of_the_questions(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    answers = await spine.fan_out("quote.wanted", items(20), timeout=10, reducer=best(by="confidence"))
    assert [answer.payload["n"] for answer in answers.answers] == list(range(20))
    assert [answer.place for answer in answers.answers] == list(range(20))
    assert (answers.partial, answers.missing) == (False, [])
    assert answers.value.payload == {"n": 19, "confidence": 0.19}
    asked = await events_of(spine, "quote.wanted")
    assert len({event.context.correlation for event in asked}) == 1
    assert len({event.key for event in asked}) == 20


async def test_a_quorum_ends_the_wait_with_its_last_answer(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    answers = await spine.fan_out("quote.wanted", items(20, silent_from=15), quorum=15, timeout=30)
    assert len(answers) == 15
    assert not answers.partial
    assert [(missing.place, missing.why) for missing in answers.missing] == [(n, "unneeded") for n in range(15, 20)]


async def test_a_deadline_gives_what_came_and_who_is_missing(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    answers = await spine.fan_out("quote.wanted", items(5, silent_from=4, fails=[2]), timeout=0.5)
    assert answers.partial
    assert [answer.place for answer in answers.answers] == [0, 1, 3]
    late, failed = answers.missing[1], answers.missing[0]
    assert (failed.place, failed.why, failed.to) == (2, "failed", "quote.wanted")
    assert "no price for 2" in failed.error
    assert (late.place, late.why) == (4, "late")


@pytest.mark.parametrize("seconds", [0.2, -5])
async def test_nobody_is_waited_for_beyond_the_deadline_of_the_context(
    spine: Spine, serve: Serve, seconds: float
) -> None:
    await serve(Dealer)
    context = Context(deadline=datetime.now(UTC) + timedelta(seconds=seconds))
    async with asyncio.timeout(10):
        answers = await spine.fan_out(
            "quote.wanted", items(2, silent_from=0), timeout=timedelta(minutes=1), context=context
        )
        assert [missing.why for missing in answers.missing] == ["late", "late"]
        with pytest.raises(RequestTimeout, match="within"):
            await spine.request("quote.wanted", items(1, silent_from=0)[0], timeout=60, context=context)


async def test_a_quorum_that_cannot_be_reached_is_not_waited_for(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    answers = await spine.fan_out("quote.wanted", items(4, silent_from=3, fails=[0, 1]), quorum=3, timeout=60)
    assert answers.partial
    assert [missing.why for missing in answers.missing if missing.place < 2] == ["failed", "failed"]


async def test_the_first_pleasing_answer_is_enough(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    answers = await spine.fan_out(
        "quote.wanted", items(9, silent_from=5), first=lambda answer: answer.payload["n"] == 3, timeout=60
    )
    assert 3 in [answer.payload["n"] for answer in answers.answers]
    assert not answers.partial
    anyone = await spine.fan_out("quote.wanted", items(9, silent_from=1), first=True, timeout=60)
    assert [answer.payload["n"] for answer in anyone.answers] == [0]


async def test_one_question_to_several_agents(spine: Spine, serve: Serve) -> None:
    class North(Agent):
        name = "north"

        @on("weather.asked")
        async def tell(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.reply({"from": ctx.agent})

    class South(North):
        name = "south"

    await serve(North, South)
    answers = await spine.fan_out("weather.asked", {"day": 1}, to=["north", "south"], timeout=10)
    assert [(answer.source, answer.payload) for answer in answers.answers] == [
        ("north", {"from": "north"}),
        ("south", {"from": "south"}),
    ]
    unknown = await spine.fan_out("weather.asked", {"day": 1}, to=["north", "nobody"], timeout=10)
    assert [missing.to for missing in unknown.missing] == ["nobody"]
    with pytest.raises(NoHandler):
        await spine.fan_out("weather.asked", {"day": 1}, to=["nobody", "no-one"], timeout=10)


async def test_answers_stream_in(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    stream = spine.fan_out_stream("quote.wanted", items(6, silent_from=4), quorum=4, timeout=60)
    came = [answer.payload["n"] async for answer in stream]
    assert sorted(came) == [0, 1, 2, 3]
    result = stream.result(best())
    assert (result.partial, [missing.why for missing in result.missing]) == (False, ["unneeded"] * 2)
    assert result.value.payload["n"] == 3


async def test_a_stream_says_who_did_not_answer(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    stream = spine.fan_out_stream("quote.wanted", items(4, silent_from=3, fails=[1]), timeout=0.5)
    assert sorted([answer.place async for answer in stream]) == [0, 2]
    result = stream.result()
    assert result.partial
    assert [answer.place for answer in result.answers] == [0, 2]
    assert [(missing.place, missing.why) for missing in result.missing] == [(1, "failed"), (3, "late")]


async def test_a_stream_left_early_waits_no_more(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)
    stream = spine.fan_out_stream("quote.wanted", items(3, silent_from=1), timeout=60)
    async with aclosing(stream):
        async for _ in stream:
            break
    assert [task for task in asyncio.all_tasks() if task.get_name() == "spine-fan-out"] == []
    assert [answer.place for answer in stream.result().answers] == [0]
    assert stream.result().partial
    assert [missing.place for missing in stream.result().missing] == [1, 2]


async def test_a_reducer_may_ask_somebody_itself(spine: Spine, serve: Serve) -> None:
    await serve(Dealer)

    async def judge(answers: Sequence[Answer]) -> int:
        chosen = await spine.request("quote.wanted", {"n": len(answers)}, timeout=10)
        return int(chosen.payload["n"])

    assert (await spine.fan_out("quote.wanted", items(2), reducer=judge, timeout=10)).value == 2


class Crew(Agent):
    """Asks its own kind; only with the slot given up, and given up once, does this end and never run two at a time."""

    name = "crew"
    at_work = 0
    most = 0

    @on("job.split")
    async def split(self, event: Event[Any], ctx: Handling) -> None:
        answers = await ctx.fan_out("job.part", items(5), timeout=20)
        first = [answer.place async for answer in ctx.fan_out_stream("job.part", items(5), timeout=20)]
        await self.work()
        await ctx.reply({"parts": len(answers), "streamed": len(first)})

    @on("job.part")
    async def part(self, event: Event[Any], ctx: Handling) -> None:
        await self.work()
        await ctx.reply({})

    async def work(self) -> None:
        Crew.at_work += 1
        Crew.most = max(Crew.most, Crew.at_work)
        await asyncio.sleep(0.001)
        Crew.at_work -= 1


async def test_a_handler_that_waits_gives_up_its_slot_once(spine: Spine, serve: Serve) -> None:
    Crew.at_work = Crew.most = 0
    await serve(Crew, concurrency=1)
    replies = await asyncio.gather(*(spine.request("job.split", {}, timeout=30) for _ in range(10)))
    assert [reply.payload for reply in replies] == [{"parts": 5, "streamed": 5}] * 10
    assert Crew.most == 1


async def test_a_limit_over_all_workers_does_not_count_those_that_wait(spine: Spine, serve: Serve) -> None:
    class Single(Crew):
        name = "single"
        concurrency = 1

    Crew.at_work = Crew.most = 0
    await serve(Single)
    await serve(Single)
    replies = await asyncio.gather(*(spine.request("job.split", {}, timeout=30) for _ in range(4)))
    assert [reply.payload for reply in replies] == [{"parts": 5, "streamed": 5}] * 4
    assert Crew.most == 1


async def test_more_handlers_wait_for_their_own_agent_than_it_takes_at_once(spine: Spine, serve: Serve) -> None:
    class Nested(Agent):
        name = "nested"
        prefetch = 8

        @on("outer.asked")
        async def outer(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.fan_out("inner.asked", items(2), timeout=30)
            await ctx.reply({})

        @on("inner.asked")
        async def inner(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.reply({})

    await serve(Nested, concurrency=2)
    await asyncio.gather(*(spine.request("outer.asked", {}, timeout=30) for _ in range(8)))


class Flaky(Agent):
    """Fails once for each question, so that its asker has to ask anew."""

    name = "flaky"
    calls: list[int] = []

    @on("quote.asked", retry=Retry(attempts=1))
    async def quote(self, event: Event[Any], ctx: Handling) -> None:
        n = event.payload["n"]
        Flaky.calls.append(n)
        if n == 1 and Flaky.calls.count(1) == 1:
            raise ValueError("not now")
        await ctx.reply({"n": n})


class Persistent(Agent):
    name = "persistent"

    @on("purchase.wanted")
    async def buy(self, event: Event[Any], ctx: Handling) -> None:
        quotes = await ctx.fan_out("quote.asked", items(3), timeout=10)
        if quotes.partial:
            raise ValueError(f"{quotes.missing}")
        await ctx.reply({"attempt": ctx.attempt})


async def test_a_retry_asks_only_those_anew_that_failed(spine: Spine, serve: Serve) -> None:
    Flaky.calls.clear()
    await serve(Flaky, Persistent)
    reply = await spine.request("purchase.wanted", {}, timeout=20)
    assert reply.payload == {"attempt": 2}
    assert sorted(Flaky.calls) == [0, 1, 1, 2]


class Sleepy(Agent):
    """Sleeps through the first question."""

    name = "sleepy"
    calls = 0

    @on("nap.disturbed")
    async def wake(self, event: Event[Any], ctx: Handling) -> None:
        Sleepy.calls += 1
        if Sleepy.calls == 1:
            await asyncio.Event().wait()
        await ctx.reply({})


class Impatient(Agent):
    name = "impatient"

    @on("nap.ended")
    async def ask(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.request("nap.disturbed", {}, timeout=0.3)
        await ctx.reply({"attempt": ctx.attempt})


async def test_a_retry_after_a_time_out_asks_anew(spine: Spine, serve: Serve) -> None:
    Sleepy.calls = 0
    await serve(Sleepy, Impatient)
    reply = await spine.request("nap.ended", {}, timeout=20)
    assert reply.payload == {"attempt": 2}
