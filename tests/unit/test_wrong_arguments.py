"""Values of a wrong type are refused at the door with an error of ours, before anything is stored."""

import math
from datetime import timedelta
from typing import Any

import pytest

from spine import InvalidInput, InvalidName, Spine


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
