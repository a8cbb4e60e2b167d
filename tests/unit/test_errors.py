"""What an error says about the events of the failed call."""

from __future__ import annotations

import pytest

from spine import Spine
from spine.errors import NotDurable, NotOpen, ServerUnreachable, SpineError


@pytest.mark.parametrize("stored", [True, False, None])
def test_what_became_of_the_events_is_said_as_it_is_known(stored: bool | None) -> None:
    assert ServerUnreachable("gone", stored=stored).stored is stored
    assert NotDurable("late", stored=stored).stored is stored


def test_where_nothing_is_said_the_kind_of_error_says_it() -> None:
    assert SpineError("no").stored is False
    assert NotDurable("late").stored is True


async def test_a_client_that_is_not_open_says_so() -> None:
    client = Spine("memory://")
    for call in (client.publish, client.request, client.dead_letters):
        with pytest.raises(NotOpen, match="async with Spine"):
            await call("step")
    await client.close()
    with pytest.raises(AttributeError, match="publsh"):
        client.publsh
