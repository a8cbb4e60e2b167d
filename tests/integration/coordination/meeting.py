"""Where a test meets a handler in the middle of its work: the handler waits at a named place until it may pass."""

from spine import Handling
from spine.testing.waiting import wait_until


async def meet(ctx: Handling, place: str) -> None:
    """Say that a handler has come to `place`, and wait there until the test lets everyone pass."""
    server = ctx.spine.server
    await server.command("INCR", server.keys.own("test", "reached", place))
    await wait_until(lambda: server.command("EXISTS", server.keys.own("test", "open", place)), 60, f"passing {place}")
