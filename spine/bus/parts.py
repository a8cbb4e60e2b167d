"""What an open bus works with."""

from __future__ import annotations

from typing import Self

import msgspec
from pydantic import BaseModel

from spine.bus.emitting import Emitter
from spine.bus.metrics import Recorder
from spine.bus.responding import Responder
from spine.bus.shared import Shared
from spine.bus.subscribers import Subscribers
from spine.catalog.types import Catalog
from spine.client import Spine
from spine.log.drafts import Drafts


class Parts(msgspec.Struct, frozen=True, eq=False):
    """What an open bus works with.

    Attributes:
        shared: what the others share.
        subscribers: who is subscribed, here and elsewhere.
        emitter: stores events and waits for responses.
        responder: routes responses.
    """

    shared: Shared
    subscribers: Subscribers
    emitter: Emitter
    responder: Responder

    @classmethod
    def of(
        cls,
        spine: Spine,
        catalog: Catalog,
        recorder: Recorder,
        agent_type: str | None,
        responses: dict[str, type[BaseModel]],
    ) -> Self:
        """Return the parts of a bus on an open client."""
        own = spine.drafts
        shared = Shared(
            spine=spine,
            drafts=Drafts(own.keys, spine.name, own.partitions, own.max_bytes, catalog),
            catalog=catalog,
            recorder=recorder,
            agent_type=agent_type,
            responses=responses,
        )
        subscribers = Subscribers(spine.server, agent_type)
        return cls(shared, subscribers, Emitter(shared, subscribers), Responder(shared))
