"""What cannot be stored is refused before anything is sent; every error says what became of the event."""

from __future__ import annotations

import pytest

from spine import InvalidInput, InvalidName, InvalidPayload, ServerUnreachable, Spine, TooLarge


async def test_a_refusal_says_what_to_change(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        with pytest.raises(InvalidName, match="use 1 to 128 of a-z 0-9"):
            await spine.publish("Order Placed")
        with pytest.raises(InvalidPayload, match=r"payload\.order is a object"):
            await spine.publish("order.placed", {"order": object()})
        with pytest.raises(TooLarge, match="publish a reference"):
            await spine.publish("order.placed", {"scan": "x" * 300_000})
        with pytest.raises(InvalidInput) as error:
            await spine.publish("order.placed", key="")

        assert error.value.stored is False
        assert [event async for event in spine.replay()] == []


async def test_a_server_that_is_not_there_is_told(unused_tcp_port: int, namespace: str) -> None:
    with pytest.raises(ServerUnreachable, match="no Redis at") as error:
        await Spine(f"redis://127.0.0.1:{unused_tcp_port}", namespace=namespace, patience_s=0.1).open()
    assert error.value.stored is False
