"""The context travels with the event, so that whoever gets it has the whole picture at once."""

from __future__ import annotations

from datetime import UTC, datetime

from spine import Context, Priority, Spine


async def test_a_context_arrives_as_it_was_sent(url: str, namespace: str) -> None:
    context = Context(
        session_id="session-1",
        session={"city": "Ulm"},
        constraints={"budget": 120},
        deadline=datetime(2035, 1, 1, tzinfo=UTC),
        priority=Priority.URGENT,
    )
    async with Spine(url, namespace=namespace) as spine:
        event = await spine.publish("requirement.complete", {"service": "Hotels"}, context=context)

        assert event.key == "session-1"  # the session is the default key
        assert event.context.session == {"city": "Ulm"}
        assert event.context.correlation == event.id  # a new correlation begins where there is none
        assert [found.context async for found in spine.replay()] == [event.context]


async def test_everything_of_one_correlation_is_found_whatever_its_keys(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        first = await spine.publish("order.placed", key="customer-1")
        follows = Context(correlation=first.context.correlation, causation=first.seq)
        second = await spine.publish("stock.reserved", key="warehouse-9", context=follows)
        await spine.publish("order.placed", key="customer-2")

        found = [event async for event in spine.replay(correlation=first.context.correlation)]
        assert found == [first, second]
        assert found[1].context.causation == first.seq
