"""The server counts the answers of a gather as the pure decision would."""

from __future__ import annotations

import random
from typing import Any

import pytest

from spine import Context, Draft, Spine
from spine.coordination.answers import Enough
from spine.coordination.fanout import Options, questions
from spine.coordination.gather import Gather
from spine.events import ReplyTo
from spine.requests import FAILED, answer


@pytest.mark.parametrize("seed", range(25))
async def test_it_is_due_exactly_when_the_decision_says_so(spine: Spine, raw: Any, seed: int) -> None:
    chance = random.Random(seed)
    asked = chance.randint(1, 6)
    quorum = chance.choice([None, chance.randint(1, asked)])
    await spine.timers.close()
    options = Options(quorum=quorum, timeout=600)
    context = Context(correlation="c")
    started = Gather(spine.drafts, questions("q", [{}] * asked, options, base="c"), "done", context, "c", options)
    prepared, writes = started.prepare(context, spine.server.now_ms())
    stored = await spine.publisher.append(prepared, "memory", writes)
    rule = Enough(asked, asked if quorum is None else quorum, gives_up=quorum is not None)
    counted: dict[int, bool] = {}
    for _ in range(3 * asked):
        place, ok = chance.randrange(asked), chance.random() < 0.6
        said, write = answer(spine.drafts, stored[place], "q.reply" if ok else FAILED, {}, context, "a")
        await spine.publisher.append([said], "memory", [write])
        counted.setdefault(place, ok)
        answered = sum(counted.values())
        standing = rule.standing(answered, len(counted) - answered)
        ((_, due),) = await raw.zrange(spine.server.keys.due, 0, -1, withscores=True)
        assert (due == 0) == (standing != "open"), (counted, rule)


async def test_an_answer_that_comes_after_the_end_is_only_in_the_log(spine: Spine, raw: Any) -> None:
    (question,) = await spine.publish_many([Draft("q", {}, key="c")])
    asked = question.context.replace(reply_to=ReplyTo("gone", "", 0, 0))
    late = spine.drafts.prepare(Draft("q", {}, key="c", context=asked)).stored(1, 0)
    said, write = answer(spine.drafts, late, "q.reply", {}, Context(correlation="c"), "a")
    await spine.publisher.append([said], "memory", [write])
    assert not await raw.exists(spine.server.keys.gather(0, "gone"))
    assert [event.type async for event in spine.replay()] == ["q", "q.reply"]
