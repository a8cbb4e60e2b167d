"""A process that does one thing with the past of a namespace, to be killed on the way: URL, namespace, what to do."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from ledger import Ledger
from pydantic import BaseModel

from spine import Event, Projection, Spine, reduces
from spine.transfer import Import
from spine.worker import Worker


class Often(Ledger):
    """Keeps every second state."""

    name = "often"
    snapshot_events = 2


class Count(BaseModel):
    """How many events there were."""

    count: int = 0


class Counts(Projection[Count]):
    """Counts them over all keys."""

    name = "counts"
    scope = "global"

    @reduces("money.in")
    def one_more(self, state: Count, event: Event[Any]) -> Count:
        return Count(count=state.count + 1)


async def main(url: str, namespace: str, what: str, *args: str) -> None:
    if what == "import":
        async with Import(url, namespace=namespace) as target:
            await target.load(Path(args[0]).read_bytes().splitlines())  # noqa: ASYNC240 - nothing else runs here
        return
    async with Spine(url, namespace=namespace) as spine:
        match what:
            case "trim":
                await spine.trim(until=int(args[0]), kinds=[Ledger])
            case "snapshot":
                for at in range(1, int(args[0])):
                    await spine.snapshot(Ledger, key="k1", at=at)
            case "fork":
                await spine.fork(args[0], at=int(args[1]))
            case "project":
                async with Worker(spine, Counts):
                    await asyncio.Event().wait()
            case "serve":
                async with Worker(spine, Often):
                    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
