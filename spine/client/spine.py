"""`Spine`, the client: what a service embeds to publish, read, request and run agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from spine.catalog.stored import keep
from spine.catalog.types import Catalog, EventType
from spine.client.agents import Agents
from spine.client.overview import Overview
from spine.client.past import Past
from spine.client.requesting import Requesting
from spine.codec import DEFAULT_MAX_BYTES
from spine.connection import PATIENCE_S, Server, check_partitions
from spine.coordination.gather import Gatherings
from spine.delivery.commits import Committer
from spine.delivery.dead import DeadLetters
from spine.durations import in_seconds
from spine.errors import InvalidInput
from spine.events import Context, Draft, Durability, Event, Payload, Priority
from spine.log.drafts import Drafts, check_limit
from spine.log.durability import known_durability
from spine.log.listener import Listener
from spine.log.publisher import Publisher
from spine.log.reader import Reader
from spine.log.streams import Streams
from spine.names import check_key, check_name
from spine.requests import GATHER, Requests
from spine.sessions import load_raw_sessions, session_state, session_update
from spine.timers import Scheduled, Timers, due_ms

DEFAULT_NAMESPACE = "default"
DEFAULT_CLIENT_NAME = "client"


class Spine(Requesting, Past, Agents):
    """A client of one namespace, and an async context manager.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; ``None`` takes ``$SPINE_URL``, else starts or joins the
            embedded server of the project directory.
        namespace: which namespace; ``None`` takes ``$SPINE_NAMESPACE``, else ``default``.
        name: the `source` of what this client publishes.
        durability: what an acknowledged publish has survived: ``memory`` (the server has it), ``disk`` (fsynced) or
            ``replicas`` (one replica has it).
        partitions: of a namespace that is created now (8 where left out, 4,096 at most); another number than an
            existing namespace has raises `NamespaceMismatch`.
        max_event_bytes: the largest event accepted, 1 MiB at most.
        patience_s: how long a call goes on trying while the server is away.
        catalog: the types there are: what is published is checked against it, and it is kept with the namespace for
            ``spine catalog``.

    Attributes:
        is_open: it was opened, and not closed since.
    """

    _accepts_incomplete = False

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        name: str = DEFAULT_CLIENT_NAME,
        durability: Durability = "memory",
        partitions: int | None = None,
        max_event_bytes: int = DEFAULT_MAX_BYTES,
        patience_s: float = PATIENCE_S,
        catalog: Catalog | None = None,
    ) -> None:
        self.namespace = check_name(namespace or os.environ.get("SPINE_NAMESPACE") or DEFAULT_NAMESPACE, "namespace")
        self.name = check_name(name, "client name")
        self.durability: Durability = known_durability(durability)
        self._url = url or os.environ.get("SPINE_URL") or None
        self._partitions = check_partitions(partitions)
        self._max_event_bytes = check_limit(max_event_bytes)
        self._patience_s = in_seconds(patience_s, "patience_s")
        self.catalog = catalog
        self._embedded: Any = None
        self.is_open = False

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Connect; create the namespace or join it. Use ``async with`` where you can."""
        if self._url is None:
            from spine.embedded import EmbeddedServer

            self._embedded = await asyncio.to_thread(EmbeddedServer.join)
        url = self._url or self._embedded.url
        self.server = Server(
            url,
            self.namespace,
            partitions=self._partitions,
            patience_s=self._patience_s,
            accepts_incomplete=self._accepts_incomplete,
        )
        try:
            await self.server.open()
            if self.catalog is not None:
                await keep(self.server, self.catalog)
        except BaseException:
            await self.server.close()
            await self._leave_embedded()
            raise
        self.drafts = Drafts(self.server.keys, self.name, self.server.partitions, self._max_event_bytes, self.catalog)
        self.streams = Streams(self.server)
        self.publisher = Publisher(self.server, self.streams, self.drafts.producer)
        self.reader = Reader(self.server, self.streams)
        self.listener = Listener(self.server, self.drafts.producer)
        self.committer = Committer(self.server, self.streams, f"{self.drafts.producer}.c")
        self.requests = Requests(self.server, self.listener, self.drafts.producer)
        self.timers = Timers(self.server, self.committer, self.listener, self.drafts)
        self.overview = Overview(self.server, self.streams)
        self._dead = DeadLetters(self.server, self.streams)
        self.timers.serve(GATHER, Gatherings(self.server, self.drafts).due)
        await self.timers.start()
        self._subscriptions = []
        self.is_open = True
        return self

    async def close(self) -> None:
        """Finish what is being published, stop listening and disconnect. Does nothing on a client that is not open.

        What others begin meanwhile is refused.
        """
        if not self.is_open:
            return
        for subscription in self._subscriptions:
            await subscription.stop()
        await self.publisher.close()
        await self.timers.close()
        await self.committer.finish()
        await self.listener.close()
        await self.server.close()
        await self._leave_embedded()
        self.is_open = False

    async def _leave_embedded(self) -> None:
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await asyncio.to_thread(embedded.leave)

    async def publish(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
        dedupe_key: str | None = None,
        durability: Durability | None = None,
    ) -> Event[Any]:
        """Store one event and return it, with its seq.

        Args:
            type: the schema of the payload, like ``order.placed``; or an `EventType`, payload and type in one.
            payload: a dict or a pydantic model.
            key: unit of order and of state; the session id of `context` where left out, else its correlation.
            context: what travels with the event.
            priority: the lane; that of `context` where left out.
            to: an agent: the event goes to its inbox only.
            dedupe_key: a second publish under the same one within 24 hours stores nothing and returns the first event.
            durability: overrides that of the client.

        Raises `InvalidInput` before anything is sent, or `Unavailable` whose `stored` says what became of the event.
        """
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to, dedupe_key)
        return await self.publisher.append_one(self.drafts.prepare(draft), durability or self.durability)

    async def publish_many(self, drafts: Iterable[Draft], *, durability: Durability | None = None) -> list[Event[Any]]:
        """Store all of `drafts` as one atomic batch, with consecutive seqs; return them in the same order."""
        if not isinstance(drafts, Iterable):
            raise InvalidInput(f"publish_many takes Drafts, not {type(drafts).__name__}. Nothing was stored.")
        batch = list(drafts)
        for draft in batch:
            if not isinstance(draft, Draft):
                raise InvalidInput(f"publish_many takes Drafts, not {type(draft).__name__}. Nothing was stored.")
        if not batch:
            return []
        prepared = [self.drafts.prepare(draft) for draft in batch]
        return await self.publisher.append(prepared, durability or self.durability)

    async def schedule(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
    ) -> Scheduled:
        """Publish an event later, after `delay` (timedelta or seconds) or at a time; it gets its seq when it is due.

        It is on time while any client or worker of the namespace lives, and late, but not lost, when none does.
        """
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to)
        return await self.timers.schedule(self.drafts.prepare(draft), due_ms(self.server.now_ms(), delay, at))

    async def unschedule(self, scheduled_id: str) -> bool:
        """Cancel a scheduled event by its id; return whether it was still to come."""
        return await self.timers.cancel(scheduled_id)

    async def session(self, session_id: str) -> dict[str, Any]:
        """Return the state of a session."""
        found = await load_raw_sessions(self.server, [check_key(session_id, "session id")])
        return session_state(found[session_id]).values

    async def update_session(self, session_id: str, changes: Mapping[str, Any]) -> Event[Any]:
        """Change fields of a session (``None`` removes one); return the event that says so."""
        context = Context(session_id=check_key(session_id, "session id"))
        prepared, writes = session_update(self.drafts, session_id, changes, context)
        return (await self.publisher.append([prepared], self.durability, writes))[0]
