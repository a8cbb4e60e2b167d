"""The server that all processes of one project directory share when no URL is given.

    processes ── shared lock on members.lock ──┐
                                               │ nobody holds it: stop
    supervisor.py ─────────────────────────────┘
        └── valkey-server      a unix socket and an append-only file, both for this user alone

The locks are the kernel's: whatever way a process dies, it has left.
"""

from spine.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
