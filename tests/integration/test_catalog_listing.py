"""The catalogue of a namespace: what was registered, published, declared and handled; and its AsyncAPI document."""

import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

from spine import Agent, Event, Handling, Spine, Worker, on
from spine.bus import AgentEventBus
from spine.catalog import Catalog, EventType, listing
from spine.catalog.asyncapi import document
from spine.catalog.listing import TypeListing, list_types
from spine.testing.waiting import wait_until

SPECS = "@asyncapi/specs@6.11.1"


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Line(EventType):
    sku: int
    size: Size = Size.SMALL


class OrderPlaced(EventType, name="order.placed"):
    """A customer has ordered."""

    lines: list[Line]
    note: str | None = None


class OrderPaid(EventType, name="order.paid", version=2):
    amount: float


class Shop(Agent):
    name = "shop"

    @on("order.*")
    async def any(self, event: Event, ctx: Handling) -> None:
        await ctx.publish("shop.noted", {"seq": event.seq, "gift": True} if event.seq > 1 else {"seq": event.seq})


class Ledger(Agent):
    name = "ledger"

    @on("order.paid", "order.refunded")
    async def paid(self, event: Event) -> None: ...


@pytest.fixture
async def listed(url: str, namespace: str) -> dict[str, TypeListing]:
    catalog = Catalog(OrderPlaced, OrderPaid)
    async with Spine(url, namespace=namespace, name="web", catalog=catalog) as spine, Worker(spine, Shop, Ledger):
        await spine.publish(OrderPlaced(lines=[Line(sku=1)]))
        await spine.publish("order.paid", {"amount": 1})
        await spine.publish("job.wanted", {"n": 1}, to="shop")

        async def all_handled() -> bool:
            return len(await spine.history(types="shop.noted")) == 2 and (
                next(x for x in await list_types(spine) if x.type == "order.paid").handled_by == ("ledger", "shop")
            )

        await wait_until(all_handled)
    async with Spine(url, namespace=namespace) as reader:
        return {found.type: found for found in await list_types(reader)}


def test_every_type_is_listed_once(listed: dict[str, TypeListing]) -> None:
    assert list(listed) == ["job.wanted", "order.paid", "order.placed", "order.refunded", "shop.noted"]


def test_a_registered_type_has_its_models_fields(listed: dict[str, TypeListing]) -> None:
    placed = listed["order.placed"]
    assert placed.known is not None
    assert (placed.known.model, placed.known.description) == ("OrderPlaced", "A customer has ordered.")
    assert [str(field) for field in placed.fields] == ["lines: [Line]", "note?: string | null"]
    assert listed["order.paid"].known.version == 2


def test_another_type_has_the_fields_that_were_seen(listed: dict[str, TypeListing]) -> None:
    noted = listed["shop.noted"]
    assert noted.known is None
    assert set(noted.fields) == {
        listing.Field("seq", "integer", True),
        listing.Field("gift", "boolean", False),
    }


def test_who_publishes_and_who_handles(listed: dict[str, TypeListing]) -> None:
    assert listed["order.placed"].publishers == ("web",)
    assert listed["shop.noted"].publishers == ("shop",)
    assert listed["order.paid"].handlers == ("ledger", "shop")
    assert listed["order.paid"].handled_by == ("ledger", "shop")
    assert listed["order.placed"].handled_by == ("shop",)
    refunded = listed["order.refunded"]
    assert (refunded.events, refunded.last, refunded.handlers) == (0, None, ("ledger", "shop"))
    assert (listed["order.paid"].events, listed["job.wanted"].events) == (1, 0)


async def test_who_is_subscribed_on_the_bus_handles_as_well(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine, agent_type="Librarian") as bus:
        await bus.emit("context.requested", {"conversation_id": "c"}, agent_type="Concierge")
        await bus.subscribe(["context.*", "other"], print)
        async with AgentEventBus(spine) as nameless:
            await nameless.subscribe("context.requested", print)
            handlers = {found.type: found.handlers for found in await list_types(spine)}
        assert handlers["context.requested"] == ("Librarian", f"{socket.gethostname()}/{os.getpid()}")
        assert handlers["session.created"] == ()
    async with Spine(url, namespace=namespace) as reader:
        listed = {found.type: found for found in await list_types(reader)}
    assert (listed["context.requested"].publishers, listed["context.requested"].handlers) == (("Concierge",), ())


async def test_an_older_client_does_not_take_a_newer_model_back(url: str, namespace: str) -> None:
    class Old(EventType, name="order.paid", version=1):
        cents: int

    for catalog in (Catalog(OrderPaid), Catalog(Old)):
        async with Spine(url, namespace=namespace, catalog=catalog) as spine:
            (paid,) = await list_types(spine)
    assert (paid.known.version, paid.known.model) == (2, "OrderPaid")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_of_the_asyncapi_document_leads_somewhere(listed: dict[str, TypeListing]) -> None:
    found = json.loads(json.dumps(document(listed.values(), title="shop", url="redis://:secret@localhost:6379/0")))
    assert "secret" not in json.dumps(found)
    assert "$defs" not in json.dumps(found)
    assert len(set(references(found))) >= 10
    for reference in references(found):
        place = found
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    assert set(found["channels"]) == set(listed)
    actions = {name: body["action"] for name, body in found["operations"].items()}
    assert actions["web.send.order.placed"] == "send"
    assert actions["ledger.receive.order.paid"] == "receive"
    for part in ("messages", "schemas"):
        assert all(re.fullmatch(r"[\w.-]+", name) for name in found["components"][part])


@pytest.fixture(scope="session")
def asyncapi(tmp_path_factory: pytest.TempPathFactory) -> jsonschema.Draft7Validator:
    """The official JSON schema of AsyncAPI 3.0.0, from its npm package."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the official AsyncAPI schema comes with npm, which is not here")
    directory = tmp_path_factory.mktemp("asyncapi")
    packed = subprocess.run([npm, "pack", SPECS], cwd=directory, capture_output=True, text=True, timeout=90)
    if packed.returncode:
        pytest.skip(f"npm cannot get {SPECS}: {packed.stderr.strip().splitlines()[-1:]}")
    with tarfile.open(next(directory.glob("*.tgz"))) as archive:
        schema = archive.extractfile("package/schemas/3.0.0-without-$id.json")
        return jsonschema.Draft7Validator(json.load(schema))


def test_the_official_schema_accepts_the_asyncapi_document(
    listed: dict[str, TypeListing], asyncapi: jsonschema.Draft7Validator
) -> None:
    found = document(listed.values(), title="shop", url="redis://:secret@localhost:6379/0")
    asyncapi.validate(json.loads(json.dumps(found)))
    with pytest.raises(jsonschema.ValidationError):
        asyncapi.validate({**found, "channels": {"a": {"adress": "typo"}}})


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=0, lt=10)


class Dog(BaseModel):
    kind: Literal["dog"]
    owner: "Dog | None" = None


class Adopted(EventType, name="pet.adopted"):
    model_config = ConfigDict(serialize_by_alias=True)

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: dict[str, list[Cat | Dog]] = {}
    pair: tuple[int, str] = (1, "a")
    when: datetime | None = None
    took: timedelta = timedelta(days=1)
    id: UUID | None = None
    price: Decimal = Field(Decimal(0), deprecated=True, examples=[1], title="In euros")
    anything: Any = None
    discriminator: str = ""
    reference: int = Field(0, alias="$ref")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("rediss://user:secret@cache.example/1", "cache.example"),
        ("redis://[::1]:6379/0", "[::1]:6379"),
        ("redis+sentinel://:secret@a:26379,b:26379/main", "a:26379,b:26379"),
        ("unix:///run/valkey.sock", "localhost"),
    ],
)
async def test_it_accepts_every_kind_of_field_and_server(
    memory_url: str, asyncapi: jsonschema.Draft7Validator, url: str, host: str
) -> None:
    async with Spine(memory_url, namespace="pets", catalog=Catalog(Adopted), name="web") as spine:
        await spine.publish("pet.seen", {"größe": 1})
        found = json.loads(json.dumps(document(await list_types(spine), title="pets", url=url)))
    asyncapi.validate(found)
    pet = found["components"]["messages"]["pet.adopted"]["payload"]["properties"]["pet"]
    assert pet["discriminator"] == "kind"
    assert found["servers"]["spine"]["host"] == host
    assert "secret" not in json.dumps(found)
