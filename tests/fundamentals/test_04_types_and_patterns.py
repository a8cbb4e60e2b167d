"""The type names the schema of the payload and, unless one agent is addressed, the topic. Patterns name many."""

from __future__ import annotations

from pydantic import BaseModel

from spine import Spine


async def test_a_pattern_names_many_types(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        for event_type in ("order.placed", "order.paid", "invoice.sent"):
            await spine.publish(event_type)

        assert [event.type async for event in spine.replay(types="order.*")] == ["order.placed", "order.paid"]
        assert [event.type async for event in spine.replay(types=("*.sent", "order.paid"))] == [
            "order.paid",
            "invoice.sent",
        ]


async def test_an_event_for_one_agent_keeps_its_type(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        event = await spine.publish("order.placed", to="scheduling")

        assert (event.type, event.topic) == ("order.placed", "@scheduling")
        assert [found async for found in spine.replay(types="order.*")] == [event]


async def test_a_payload_may_be_a_model(url: str, namespace: str) -> None:
    class Order(BaseModel):
        sku: int
        note: str | None = None

    async with Spine(url, namespace=namespace) as spine:
        event = await spine.publish("order.placed", Order(sku=7))

        assert event.payload == {"sku": 7, "note": None}
        assert Order.model_validate(event.payload) == Order(sku=7)
