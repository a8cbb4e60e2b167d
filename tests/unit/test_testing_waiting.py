"""`wait_until` returns with the condition, and says what it waited for when it does not come."""

import asyncio

import pytest

from spine.testing.waiting import wait_until


async def test_the_value_that_came_true_is_returned() -> None:
    values = iter([0, None, [], "here"])
    assert await wait_until(lambda: next(values)) == "here"


async def test_an_async_condition_is_awaited() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)

    async def happened() -> bool:
        return event.is_set()

    assert await wait_until(happened)


async def test_time_out_names_the_thing_and_its_last_value() -> None:
    with pytest.raises(AssertionError, match=r"the answer did not come true within 0\.01 s; it was \[\]"):
        await wait_until(list, timeout=0.01, what="the answer")
