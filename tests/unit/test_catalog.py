"""The catalogue refuses what does not fit, names the field, and stores what the model would write."""

from decimal import Decimal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel
from pydantic.alias_generators import to_camel

from spine import Agent, Event, Handling, InvalidInput, InvalidName, InvalidPayload, Retry, Spine, Worker, on
from spine.catalog import Catalog, EventType
from spine.catalog.stored import known_as, load
from spine.delivery.records import DeadLetter
from spine.testing.waiting import wait_until


class Line(BaseModel):
    sku: int
    price: Decimal = Decimal(0)


class OrderPlaced(EventType, name="order.placed", version=3):
    """A customer has ordered."""

    lines: list[Line]
    note: str = Field(default="", max_length=10)


class Cancellation(BaseModel):
    reason: str


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int


class Holder(BaseModel):
    loose: Loose
    line: Line | None = None


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog(OrderPlaced)
    catalog.register("order.cancelled", Cancellation)
    return catalog


def test_a_payload_is_stored_as_its_model_writes_it(catalog: Catalog) -> None:
    payload, version = catalog.check("order.placed", {"lines": [{"sku": "7", "price": "1.50"}]})
    assert payload == {"lines": [{"sku": 7, "price": "1.50"}], "note": ""}
    assert version == 3


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({}, "lines: Field required"),
        ({"lines": [{"sku": 1}, {"sku": "x"}]}, r"lines\[1\]\.sku: Input should be a valid integer"),
        ({"lines": [], "note": "x" * 11}, "note: String should have at most 10"),
        ({"lines": [], "nots": "typo"}, "nots: Extra inputs are not permitted"),
        ({"lines": [{"sku": 1, "colour": 2}]}, r"lines\[0\]\.colour: Extra"),
        ([], "payload: Input should be a valid dictionary"),
        (Cancellation(reason="x"), "lines: Field required"),
    ],
)
def test_what_is_wrong_is_named(catalog: Catalog, payload, named: str) -> None:
    with pytest.raises(InvalidPayload, match=named) as caught:
        catalog.check("order.placed", payload)
    assert "'order.placed' is not a OrderPlaced" in str(caught.value)
    assert caught.value.stored is False


def test_many_errors_are_counted_not_listed(catalog: Catalog) -> None:
    with pytest.raises(InvalidPayload, match="and 3 more"):
        catalog.check("order.placed", {"lines": [{"sku": "x"}] * 8})


def test_a_models_own_rule_for_extra_fields_holds() -> None:
    catalog = Catalog()
    catalog.register("loose", Loose)
    catalog.register("holder", Holder)
    assert catalog.check("loose", {"known": 1, "other": 2})[0] == {"known": 1, "other": 2}
    held = {"loose": {"known": 1, "other": 2}, "line": None}
    assert catalog.check("holder", held)[0] == held
    with pytest.raises(InvalidPayload, match=r"line\.other: Extra"):
        catalog.check("holder", {"loose": {"known": 1, "more": 2}, "line": {"sku": 1, "other": 2}})


def test_strictness_decides_about_types_that_are_not_here() -> None:
    for strictness in ("off", "known"):
        assert Catalog(OrderPlaced, strictness=strictness).check("any.thing", {"a": 1}) == ({"a": 1}, 1)
    with pytest.raises(InvalidName, match=r"'order\.plced' is not in the catalogue. Did you mean 'order\.placed'\?"):
        Catalog(OrderPlaced, strictness="strict").check("order.plced", {})
    assert Catalog(OrderPlaced, strictness="off").check("order.placed", {"nonsense": 1}) == ({"nonsense": 1}, 3)
    with pytest.raises(InvalidInput, match="strictness"):
        Catalog(strictness="loose")


def test_a_type_is_registered_once(catalog: Catalog) -> None:
    catalog.register(OrderPlaced)
    assert [entry.type for entry in catalog] == ["order.placed", "order.cancelled"]
    with pytest.raises(InvalidInput, match=r"'order\.placed' is registered already, as .*OrderPlaced"):
        catalog.register("order.placed", Cancellation)
    with pytest.raises(InvalidInput, match="Cancellation does not say which type"):
        catalog.register(Cancellation)
    with pytest.raises(InvalidName):
        catalog.register("spine.own", Cancellation)
    with pytest.raises(InvalidName):

        class Bad(EventType, name="Order Placed"):
            pass


async def test_publish_takes_an_event_type_as_it_is(memory_url: str, catalog: Catalog) -> None:
    async with Spine(memory_url, catalog=catalog) as spine:
        event = await spine.publish(OrderPlaced(lines=[Line(sku=1)]), key="k")
        assert (event.type, event.type_version) == ("order.placed", 3)
        assert event.payload == {"lines": [{"sku": 1, "price": "0"}], "note": ""}
        assert await spine.history() == [event]
    async with Spine(memory_url) as spine:
        again = await spine.publish(OrderPlaced(lines=[]))
        assert (again.type, again.type_version) == ("order.placed", 3)


async def test_nothing_is_stored_of_a_batch_with_one_bad_payload(memory_url: str, catalog: Catalog) -> None:
    from spine import Draft

    async with Spine(memory_url, catalog=catalog) as spine:
        with pytest.raises(InvalidPayload, match="reason"):
            await spine.publish_many([Draft("order.cancelled", {"reason": "no"}), Draft("order.cancelled", {})])
        assert await spine.history() == []


class Shop(Agent):
    name = "shop"

    @on(OrderPlaced, retry=Retry(attempts=1))
    async def placed(self, event: Event[OrderPlaced], ctx: Handling) -> None:
        assert isinstance(event.payload, OrderPlaced)
        await ctx.publish("order.cancelled", {"reason": event.payload.note} if event.payload.note else {})


async def test_handlers_name_types_by_their_class_and_are_checked_when_they_publish(
    memory_url: str, catalog: Catalog
) -> None:
    async with Spine(memory_url, catalog=catalog) as spine, Worker(spine, Shop):
        await spine.publish(OrderPlaced(lines=[], note="late"))

        async def cancelled() -> list[Event]:
            return await spine.history(types="order.cancelled")

        assert (await wait_until(cancelled))[0].payload == {"reason": "late"}


class Typing(Agent):
    name = "typing"

    @on("order.plced")
    async def placed(self, event: Event) -> None: ...


async def test_a_strict_catalogue_refuses_an_agent_that_listens_to_a_type_it_does_not_know(memory_url: str) -> None:
    async with Spine(memory_url, catalog=Catalog(OrderPlaced, strictness="strict")) as spine:
        with pytest.raises(InvalidName, match=r"typing.*order\.plced.*order\.placed"):
            async with Worker(spine, Typing):
                pass


class OwnCatalog(Shop):
    name = "own"
    catalog = Catalog(OrderPlaced)
    catalog.register("order.cancelled", Cancellation)

    @on("order.*")
    async def other(self, event: Event, ctx: Handling) -> None: ...


async def test_an_agent_may_bring_its_own_catalogue(memory_url: str) -> None:
    async with Spine(memory_url) as spine, Worker(spine, OwnCatalog):
        await spine.publish("order.placed", {"lines": [], "note": ""})

        async def given_up() -> list[DeadLetter]:
            return await spine.dead_letters("own")

        ((letter,)) = await wait_until(given_up)
        assert letter.error_type == "InvalidPayload"
        assert "reason: Field required" in letter.error
        assert (await load(spine.server)).keys() == {"order.placed", "order.cancelled"}


class Moved(EventType, name="customer.moved"):
    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str
    post_code: str = Field(validation_alias=AliasChoices("zip", "postCode"), serialization_alias="plz", default="")


@pytest.mark.parametrize("known", [True, False])
async def test_what_has_aliases_is_stored_by_field_name_and_read_by_either(memory_url: str, known: bool) -> None:
    read: list[Moved] = []

    class Mover(Agent):
        name = "mover"

        @on(Moved, retry=Retry(attempts=1))
        async def moved(self, event: Event[Moved]) -> None:
            read.append(event.payload)

    async with Spine(memory_url, catalog=Catalog(Moved) if known else None) as spine, Worker(spine, Mover):
        written = await spine.publish(Moved(firstName="Ann", zip="1010"))
        assert written.payload == {"first_name": "Ann", "post_code": "1010"}
        await spine.publish("customer.moved", {"firstName": "Ann", "postCode": "1010"})
        await spine.publish("customer.moved", written.payload)
        await wait_until(lambda: len(read) == 3)
        assert await spine.dead_letters() == []
    assert read == [Moved(firstName="Ann", zip="1010")] * 3


def test_the_schema_names_the_fields_as_they_are_stored() -> None:
    (entry,) = Catalog(Moved)
    assert list(known_as(entry).schema["properties"]) == ["first_name", "post_code"]


class Numbers(RootModel[list[int]]): ...


class Picture(BaseModel):
    content: bytes


async def test_a_model_that_cannot_be_stored_is_refused(memory_url: str) -> None:
    catalog = Catalog()
    catalog.register("numbers", Numbers)
    catalog.register("picture", Picture)
    async with Spine(memory_url, catalog=catalog) as checked, Spine(memory_url) as free:
        for spine in (checked, free):
            with pytest.raises(InvalidPayload, match="must be a dict"):
                await spine.publish("numbers", Numbers([1]))
            with pytest.raises(InvalidPayload, match="Picture cannot be written"):
                await spine.publish("picture", Picture(content=b"\xff"))
        with pytest.raises(InvalidPayload, match="must be a dict"):
            await checked.publish("numbers", [1])
        assert await checked.history() == []
