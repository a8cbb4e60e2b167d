"""What tests of systems built on spine need; installed as a pytest plugin with ``event-spine[testing]``.

Names are imported when they are first used: ``memory://`` alone needs none of pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spine.testing.clock import Clock
    from spine.testing.harness import AgentHarness, Handled, HandlerFailed
    from spine.testing.leftovers import leftovers
    from spine.testing.memory import forget
    from spine.testing.servers import RedisServer
    from spine.testing.waiting import wait_until

__all__ = ["AgentHarness", "Clock", "Handled", "HandlerFailed", "RedisServer", "forget", "leftovers", "wait_until"]

_HOMES = {
    "AgentHarness": "spine.testing.harness",
    "Clock": "spine.testing.clock",
    "Handled": "spine.testing.harness",
    "HandlerFailed": "spine.testing.harness",
    "RedisServer": "spine.testing.servers",
    "forget": "spine.testing.memory",
    "leftovers": "spine.testing.leftovers",
    "wait_until": "spine.testing.waiting",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
