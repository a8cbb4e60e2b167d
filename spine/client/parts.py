"""What an open client is made of; each part of the client's surface stands on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spine.client.overview import Overview
from spine.connection import Server
from spine.delivery.commits import Committer
from spine.delivery.dead import DeadLetters
from spine.errors import NotOpen
from spine.events import Durability
from spine.log.drafts import Drafts
from spine.log.listener import Listener
from spine.log.publisher import Publisher
from spine.log.reader import Reader
from spine.log.streams import Streams
from spine.log.subscriptions import Subscription
from spine.requests import Requests
from spine.timers import Timers


class Parts:
    """The parts of one client; they are there from `open` on."""

    durability: Durability
    server: Server
    drafts: Drafts
    streams: Streams
    publisher: Publisher
    reader: Reader
    listener: Listener
    committer: Committer
    requests: Requests
    timers: Timers
    overview: Overview
    _dead: DeadLetters
    _subscriptions: list[Subscription]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say of what only an open client has that this one is not open."""
            if name in Parts.__annotations__:
                raise NotOpen("the client is not open: async with Spine(…) as spine, or await spine.open()")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
