"""Keeping the log within its bounds: workers and buses trim it now and then, one of them at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from spine.errors import SpineError
from spine.past.trimming.retention import read_retention, target_of
from spine.past.trimming.trimming import Trimmer
from spine.state.fold import Reducing

if TYPE_CHECKING:
    from spine.client import Spine

logger = logging.getLogger("spine")

EVERY_S = 60.0
TRIMMING_MS = 600_000


class Housekeeping:
    """Applies the namespace's retention while a worker runs or a bus is open.

    Args:
        spine: an open client.
        kinds: what this worker serves: states of these are folded where a trim needs them.
        worker: id of this worker or bus.
        every_s: how often to look.
    """

    def __init__(
        self, spine: Spine, kinds: Sequence[type[Reducing[Any]]], worker: str, *, every_s: float = EVERY_S
    ) -> None:
        self._spine = spine
        self._kinds = kinds
        self._worker = worker
        self._every_s = every_s
        self._told: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after the log."""
        self._task = asyncio.create_task(self._run(), name="spine-housekeeping")

    async def stop(self) -> None:
        """Stop; a trim that is broken off goes on with the next one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._trim()
            except (SpineError, RedisError, OSError) as error:
                logger.debug("housekeeping: %s", error)

    async def _trim(self) -> None:
        server = self._spine.server
        rule = await read_retention(server)
        if rule is None:
            return
        mine = server.keys.own("trimming")
        if not await server.command("SET", mine, self._worker, "NX", "PX", TRIMMING_MS):
            return
        try:
            trimmer = Trimmer(self._spine.reader, self._kinds)
            report = await trimmer.trim(await target_of(self._spine.reader, rule))
        finally:
            await server.command("DEL", mine)
        held_up = {f"{one.agent}: {one.why}" for one in report.blockers}
        for sentence in sorted(held_up - self._told):
            logger.warning("the log cannot be trimmed as far as it should be: %s", sentence)
        self._told = held_up
