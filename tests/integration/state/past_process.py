"""A process that does one thing with the past of a namespace, to be killed on the way: URL, namespace, what to do.

``$DIE_AT=137`` kills it when its 137th call to the server is back; without, it writes how many there were.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ledger import Ledger
from pydantic import BaseModel

from spine import Event, Projection, Spine, reduces
from spine.operations.transfer import Import
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


class Calls:
    """Counts the calls to the server, and dies after one of them."""

    def __init__(self, die_at: int) -> None:
        self._die_at = die_at
        self.count = 0

    def watch(self, spine: Spine) -> None:
        for name in ("command", "commands", "run"):
            setattr(spine.server, name, self._counted(getattr(spine.server, name)))

    def _counted(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*args: Any, **options: Any) -> Any:
            result = await call(*args, **options)
            self.count += 1
            if self.count == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


async def main(url: str, namespace: str, what: str, *args: str) -> None:
    calls = Calls(int(os.environ.get("DIE_AT", "0")))
    if what == "import":
        async with Import(url, namespace=namespace) as target:
            calls.watch(target)
            await target.load(Path(args[0]).read_bytes().splitlines())  # noqa: ASYNC240 - nothing else runs here
        print(calls.count)
        return
    async with Spine(url, namespace=namespace) as spine:
        calls.watch(spine)
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
    print(calls.count)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
