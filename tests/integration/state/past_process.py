"""A process that does one thing with the past of a namespace, to be killed on the way: URL, namespace, what to do."""

from __future__ import annotations

import asyncio
import sys

from ledger import Ledger

from spine import Spine
from spine.worker import Worker


class Often(Ledger):
    """Keeps every second state."""

    name = "often"
    snapshot_events = 2


async def main(url: str, namespace: str, what: str, *args: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        match what:
            case "trim":
                await spine.trim(until=int(args[0]), kinds=[Ledger])
            case "snapshot":
                for at in range(1, int(args[0])):
                    await spine.snapshot(Ledger, key="k1", at=at)
            case "serve":
                async with Worker(spine, Often):
                    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
