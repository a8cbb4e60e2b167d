"""The feeder plays every conversation in its order, and tells runs apart."""

import asyncio
from pathlib import Path

from agents.feeder import every, feed, start_run
from agents.reading import load_dialogues, load_schema
from spine import Priority, Spine

SHIPPED = Path(__file__).parents[2] / "agents" / "conversations"


async def play(spine: Spine, *, rate: float | None = None) -> int:
    dialogues = load_dialogues(SHIPPED)
    run = await start_run(spine, len(dialogues))
    await feed(spine, run, dialogues, load_schema(SHIPPED), rate=rate)
    return run


async def test_each_conversation_is_one_session_in_order(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        run = await play(spine)
        for dialogue in load_dialogues(SHIPPED):
            key = f"{run}:{dialogue.dialogue_id}"
            events = [event async for event in spine.replay(key=key)]
            turns = [("turn.user" if turn.speaker == "USER" else "turn.system") for turn in dialogue.turns]
            assert [event.type for event in events] == ["conversation.opened", *turns, "conversation.closed"]
            assert [event.payload["turn"] for event in events[1:-1]] == list(range(len(turns)))
            assert {event.payload["conversation"] for event in events} == {dialogue.dialogue_id}
            assert {(event.context.correlation, event.context.session_id) for event in events} == {(key, key)}


async def test_conversations_are_played_side_by_side(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        await play(spine)
        types = [event.type async for event in spine.replay(types=("conversation.*",))]
    assert types.index("conversation.closed") >= len(load_dialogues(SHIPPED))


async def test_no_outcome_reaches_the_log(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        await play(spine)
        assert not [event async for event in spine.replay() if "service_" in str(event.payload)]


async def test_a_second_run_has_keys_of_its_own(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        first, second = await play(spine), await play(spine)
        keys = [event.key async for event in spine.replay(types="conversation.opened")]
    assert second > first
    assert len(keys) == len(set(keys)) == 2 * len(load_dialogues(SHIPPED))


async def test_what_the_customer_takes_back_is_urgent_and_comes_after_it_was_agreed(url: str, namespace: str) -> None:
    dialogues, schema = load_dialogues(SHIPPED), load_schema(SHIPPED)
    taken_back = every(5, dialogues, schema)
    async with Spine(url, namespace=namespace) as spine:
        run = await start_run(spine, len(dialogues))
        await feed(spine, run, dialogues, schema, taken_back=taken_back)
        for booking in taken_back:
            key = f"{run}:{booking.conversation}"
            (cancelled,) = [event async for event in spine.replay(key=booking.key(key))]
            agreed = [event async for event in spine.replay(key=key)][booking.turn + 1]
            assert (cancelled.type, cancelled.context.priority) == ("customer.cancelled", Priority.URGENT)
            assert (cancelled.payload["turn"], cancelled.context.correlation) == (booking.turn, key)
            assert cancelled.seq > agreed.seq
    assert len(taken_back) == 3


async def test_a_rate_is_kept(url: str, namespace: str) -> None:
    turns = sum(len(dialogue.turns) for dialogue in load_dialogues(SHIPPED))
    async with Spine(url, namespace=namespace) as spine:
        began = asyncio.get_running_loop().time()
        await play(spine, rate=turns / 0.5)
        assert asyncio.get_running_loop().time() - began >= 0.5 * (turns - 1) / turns
