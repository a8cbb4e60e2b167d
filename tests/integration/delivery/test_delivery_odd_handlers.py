"""What handlers do that nobody foresees: it fails their own event, says so, and hurts no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest
from pydantic import BaseModel
from recording import Recorder, everything
from tenacity import wait_none

from spine import Agent, Event, Handling, InvalidInput, Priority, Retry, Spine, on, reduces
from spine.testing.waiting import wait_until

ONCE = Retry(attempts=1)


async def dead(spine: Spine, count: int) -> list[Any]:
    async def found() -> list[Any]:
        letters = await spine.dead_letters()
        return letters if len(letters) == count else []

    return await wait_until(found)


class Aside(BaseException):
    """What a library that is not of this world raises."""


class Wordless(Exception):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def test_whatever_a_handler_raises_fails_its_event_and_can_be_read(spine: Spine, serve: Any) -> None:
    raised = {
        "aside": Aside("hm"),
        "group": BaseExceptionGroup("two", [Aside("one"), ValueError("other")]),
        "wordless": Wordless(),
        "long": ValueError("x" * 3_000_000),
        "no-text": ValueError("file \udcff.txt"),
    }

    class Odd(Recorder):
        @on("odd.async", retry=Retry(attempts=2, wait=wait_none()))
        async def fails(self, event: Event[Any]) -> None:
            raise raised[event.payload["what"]]

        @on("odd.plain", retry=ONCE)
        def fails_in_a_thread(self, event: Event[Any]) -> None:
            raise raised[event.payload["what"]]

        @on("odd.fine")
        async def fine(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Odd, concurrency=1)
    for event_type in ("odd.async", "odd.plain"):
        for what in raised:
            await spine.publish(event_type, {"what": what}, key="k")
    last = await spine.publish("odd.fine", key="k")
    await wait_until(lambda: Odd.seen["k"] == [last.seq])
    letters = await dead(spine, 2 * len(raised))
    assert [letter.error_type for letter in letters] == 2 * [type(error).__name__ for error in raised.values()]
    for letter in letters:
        assert len(letter.error) < 5_000
        assert len(letter.traceback) <= 8_000
    assert [letters[i].error for i in (0, 2, 4)] == [
        "hm",
        "(its message cannot be had: str() of it raised RuntimeError)",
        r"file \udcff.txt",
    ]


async def test_a_handler_that_cancels_its_own_task_becomes_a_dead_letter(spine: Spine, serve: Any) -> None:
    runs = 0

    class Odd(Recorder):
        @on("odd.cancel", retry=ONCE)
        async def cancels_itself(self, event: Event[Any]) -> None:
            nonlocal runs
            runs += 1
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

        @on("odd.fine")
        async def fine(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Odd, concurrency=1)
    await spine.publish("odd.cancel", key="k")
    await spine.publish("odd.fine", key="k")
    (letter,) = await dead(spine, 1)
    assert (letter.error_type, runs) == ("HandlerCancelled", 2)
    await wait_until(lambda: Odd.count == 1)


async def test_a_worker_that_is_torn_down_counts_no_attempt(url: str, spine: Spine, serve: Any) -> None:
    class Slow(Recorder):
        @on("a.b", retry=ONCE)
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)
            if self.count == 1:
                await asyncio.sleep(60)

    await serve(Slow)
    await spine.publish("a.b", key="k")
    await wait_until(lambda: Slow.count == 1)
    for task in asyncio.all_tasks():
        if task.get_name().startswith("spine-recorder"):
            task.cancel()  # as the end of the loop does it
    await wait_until(lambda: Slow.count == 2)
    assert await spine.dead_letters() == []


def logged(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A decorator that is no async def, as most are."""

    @wraps(function)
    def call(*args: Any) -> Awaitable[None]:
        return function(*args)

    return call


async def test_an_async_def_in_a_plain_decorator_is_awaited(spine: Spine, serve: Any) -> None:
    class Decorated(Recorder):
        @on("a.b", retry=ONCE)
        @logged
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await asyncio.sleep(0)
            await ctx.publish("a.c", {})
            self.note(event)

    await serve(Decorated)
    await spine.publish("a.b", key="k")
    await wait_until(lambda: Decorated.count == 1)
    await wait_until(lambda: everything(spine, types="a.c"))


def test_a_handler_that_would_never_run_is_refused_where_it_is_declared() -> None:
    with pytest.raises(InvalidInput, match="would never run: leave out the yield"):

        class Yielding(Agent):
            name = "yielding"

            @on("a.b")
            async def handle(self, event: Event[Any]) -> Any:
                yield event

    with pytest.raises(InvalidInput, match="would never run"):

        class AlsoYielding(Agent):
            name = "yielding"

            @on("a.b")
            def handle(self, event: Event[Any]) -> Any:
                yield event


def test_a_handler_that_would_hide_a_setting_is_refused_where_it_is_declared() -> None:
    with pytest.raises(InvalidInput, match=r"Starting.start: every agent has a 'start' already"):

        class Starting(Agent):
            name = "starting"

            @on("a.b")
            async def start(self, event: Event[Any]) -> None: ...  # type: ignore[assignment]

    with pytest.raises(InvalidInput, match="start is 'present', 'beginning', a seq or a datetime, not 'begining'"):

        class Misspelt(Agent):
            name = "misspelt"
            start = "begining"  # type: ignore[assignment]


async def test_a_task_that_outlives_its_handler_is_told_that_its_words_would_be_lost(spine: Spine, serve: Any) -> None:
    refused: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    class Hasty(Recorder):
        @on("a.b", retry=ONCE)
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.publish("a.c", {})
            tasks.append(asyncio.create_task(self.later(ctx)))

        async def later(self, ctx: Handling) -> None:
            await over.wait()
            for name, call in (
                ("publish", lambda: ctx.publish("a.late", {})),
                ("reply", lambda: ctx.reply({})),
                ("schedule", lambda: ctx.schedule("a.late", {}, delay=0)),
                ("session", lambda: ctx.session.update(late=True)),
                ("handoff", lambda: ctx.handoff("recorder", type="a.late")),
                ("gather", lambda: ctx.gather("a.late", [{}], then="a.later")),
                ("step", lambda: ctx.step("late", dict)),
                ("stream", lambda: ctx.stream({})),
                ("request", lambda: ctx.request("a.late")),
                ("fan_out", lambda: ctx.fan_out("a.late", [{}])),
            ):
                with pytest.raises(InvalidInput, match=r"is over, .* would be lost.*Nothing was stored"):
                    await call()
                refused.append(name)

        @on("a.late")
        async def late(self, event: Event[Any]) -> None:
            raise AssertionError("nobody sent that")

    await serve(Hasty)
    asking = asyncio.create_task(spine.request("a.b", key="k"))
    await wait_until(lambda: everything(spine, types="a.c"))
    over.set()
    await tasks[0]
    asking.cancel()
    assert len(refused) == 10
    assert [event.type for event in await everything(spine)] == ["a.b", "a.c"]


async def test_wrong_arguments_are_refused_as_such_whatever_they_are_given_to(spine: Spine, serve: Any) -> None:
    told: list[str] = []

    class Wrong(Recorder):
        @on("a.b", retry=ONCE)
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            wrong: tuple[Any, ...] = ({1: 2}, {"n": 2**70}, {"text": "\udcff"}, {"what": object()})
            for payload in wrong:
                with pytest.raises(InvalidInput, match="Nothing was stored"):
                    ctx.handoff("recorder", payload, type="a.c")
            for items in (5, "text", b"raw"):
                with pytest.raises(InvalidInput, match="Nothing was asked"):
                    ctx.gather("a.c", items, then="a.d")  # type: ignore[arg-type]
                with pytest.raises(InvalidInput, match="Nothing was asked"):
                    await ctx.fan_out("a.c", items)  # type: ignore[arg-type]
            told.append("all")

    await serve(Wrong)
    for request_id in ("", "a b", "é", "x" * 65, 5):
        with pytest.raises(InvalidInput, match=r"1 to 64 letters.*Nothing was stored"):
            await spine.request("a.b", request_id=request_id)  # type: ignore[arg-type]
    await spine.publish("a.b", key="k")
    await wait_until(lambda: told)


async def test_more_than_one_commit_takes_fails_the_handler_alone(spine: Spine, serve: Any) -> None:
    class Eager(Recorder):
        @on("a.many", retry=ONCE)
        async def many(self, event: Event[Any], ctx: Handling) -> None:
            for number in range(event.payload["n"]):
                await ctx.publish("a.c", {"n": number})

        @on("a.large", retry=ONCE)
        async def large(self, event: Event[Any], ctx: Handling) -> None:
            for _ in range(400):
                await ctx.publish("a.c", {"text": "x" * 200_000})

        @on("a.scheduled", retry=ONCE)
        async def scheduled(self, event: Event[Any], ctx: Handling) -> None:
            for _ in range(100_000):
                ctx.schedule("a.c", {}, delay=3600)

    await serve(Eager)
    for event_type in ("a.large", "a.scheduled"):
        await spine.publish(event_type, key="k")
    await spine.publish("a.many", {"n": 10_001}, key="k")
    last = await spine.publish("a.many", {"n": 10_000}, key="k")
    letters = await dead(spine, 3)
    assert [(letter.type, letter.error_type) for letter in letters] == [
        ("a.large", "TooLarge"),
        ("a.scheduled", "TooLarge"),
        ("a.many", "TooLarge"),
    ]
    assert all("over the limit of 10,000 events" in letter.error for letter in letters)
    emitted = await wait_until(lambda: everything(spine, types="a.c"))
    assert {event.context.causation for event in emitted} == {last.seq}
    assert len(emitted) == 10_000


async def test_a_reducer_that_ends_programs_parks_its_key_alone(spine: Spine, serve: Any) -> None:
    class Nothing(BaseModel):
        pass

    class Exits(Agent[Nothing]):
        name = "exits"
        handled = 0

        @reduces("a.bad")
        def fold(self, state: Nothing, event: Event[Any]) -> Nothing:
            raise SystemExit(3)

        @on("a.*")
        async def handle(self, event: Event[Any]) -> None:
            type(self).handled += 1

    await serve(Exits)
    await spine.publish("a.bad", key="k")
    await spine.publish("a.good", key="other")
    await wait_until(lambda: Exits.handled == 1)


async def test_what_a_handler_does_to_its_payload_concerns_nobody_else(spine: Spine, serve: Any) -> None:
    class Changing(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            event.payload["n"] += 1
            event.payload["lines"].append("mine")
            ctx.publish("a.c", event.payload)
            ctx.handoff("recorder", type="a.d")

        @on("a.d")
        async def keep(self, event: Event[Any]) -> None: ...

    await serve(Changing)
    await spine.publish("a.b", {"n": 1, "lines": ["theirs"]}, key="k")
    await wait_until(lambda: _has(spine, "a.d"), what="the handoff")
    _, published, handed = await everything(spine)
    assert published.payload == {"n": 2, "lines": ["theirs", "mine"]}
    for event in (published, handed):
        assert event.context.request is not None
        assert event.context.request["payload"] == {"n": 1, "lines": ["theirs"]}
    assert handed.payload == {"n": 1, "lines": ["theirs"]}


class Lines(BaseModel):
    lines: list[Any] = []


@pytest.mark.parametrize("as_model", [False, True])
async def test_what_a_handler_does_to_its_payload_is_no_part_of_the_state(
    spine: Spine, serve: Any, as_model: bool
) -> None:
    ended: list[Any] = []

    class Keeping(Agent[Lines]):
        name = "keeping"
        state_model = Lines

        @reduces("a.b")
        def fold(self, state: Lines, event: Event[Any]) -> Lines:
            return Lines.model_construct(lines=[*state.lines, event.payload["lines"]])

        if as_model:

            @on("a.b")
            async def read(self, event: Event[Lines], ctx: Handling) -> None:
                event.payload.lines[0].append("mine")
                ended.append(ctx.state.lines)

        else:

            @on("a.b")
            async def handle(self, event: Event[Any], ctx: Handling) -> None:
                event.payload["lines"][0].append("mine")
                ended.append(ctx.state.lines)

    await serve(Keeping)
    for _ in range(2):
        await spine.publish("a.b", {"lines": [["theirs"]]}, key="k")
    await wait_until(lambda: len(ended) == 2)
    assert ended == [[[["theirs"]]], [[["theirs"]], [["theirs"]]]]


async def test_a_run_after_an_interrupted_one_finds_the_payload_as_it_was(spine: Spine, serve: Any) -> None:
    found: list[Any] = []

    class Interrupted(Recorder):
        concurrency = 1

        @on("a.slow", preemptible=True)
        async def slow(self, event: Event[Any]) -> None:
            event.payload["n"] += 1
            found.append(event.payload["n"])
            if len(found) == 1:
                await asyncio.sleep(60)

        @on("a.urgent")
        async def urgent(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Interrupted)
    await spine.publish("a.slow", {"n": 0}, key="k", priority=Priority.BACKGROUND)
    await wait_until(lambda: found, what="the first run")
    await spine.publish("a.urgent", {}, key="other", priority=Priority.URGENT)
    await wait_until(lambda: len(found) == 2, what="the second run")
    assert found == [1, 1]


async def _has(spine: Spine, event_type: str) -> bool:
    return any(event.type == event_type for event in await everything(spine))
