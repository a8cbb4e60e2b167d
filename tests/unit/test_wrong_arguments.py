"""Values of a wrong type are refused at the door with an error of ours, before anything is stored."""

import math
from datetime import timedelta
from typing import Any

import pytest

from spine import Draft, InvalidInput, InvalidName, Spine


@pytest.mark.parametrize("event_type", [None, 5, b"a.b"])
async def test_a_type_that_is_no_name_is_refused(event_type: Any) -> None:
    async with Spine("memory://wrong-type", namespace="acme") as spine:
        with pytest.raises(InvalidName):
            await spine.publish(event_type, {})


@pytest.mark.parametrize("delay", ["soon", math.nan, timedelta.max])
async def test_a_delay_that_is_no_duration_is_refused(delay: Any) -> None:
    async with Spine("memory://wrong-delay", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match=r"delay is a number of seconds or a timedelta.*Nothing was stored"):
            await spine.schedule("a.b", {}, delay=delay)


async def test_a_batch_of_anything_but_drafts_is_refused_whole() -> None:
    wrong: Any = [Draft("a.b", {}), {"type": "a.b"}]
    async with Spine("memory://wrong-draft", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match=r"Drafts, not dict.*Nothing was stored"):
            await spine.publish_many(wrong)
        assert await spine.history() == []


@pytest.mark.parametrize("moment", ["yesterday", timedelta(minutes=5), 1.5])
async def test_a_moment_that_is_neither_seq_nor_time_is_refused(moment: Any) -> None:
    async with Spine("memory://wrong-moment", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="a seq or a datetime"):
            await spine.history(since=moment)
        with pytest.raises(InvalidInput, match="a seq or a datetime"):
            await anext(spine.replay(after=moment))


async def test_a_callback_that_cannot_be_called_is_refused() -> None:
    wrong: Any = 5
    async with Spine("memory://wrong-callback", namespace="acme") as spine:
        with pytest.raises(InvalidInput, match="callback"):
            await spine.subscribe("a.*", wrong)
