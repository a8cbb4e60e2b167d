"""Configuration files for the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def rendered(directives: Mapping[str, str | Path]) -> str:
    """Return the text of a configuration file. Paths are quoted, other values stand as they are."""
    return "".join(f"{name} {_quoted(value)}\n" for name, value in directives.items())


def _quoted(value: str | Path) -> str:
    if isinstance(value, str):
        return value
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


def embedded(*, data: Path, socket: Path) -> str:
    """Return the configuration of an embedded server: reachable by this user alone, every write in a file."""
    return rendered(
        {
            "port": "0",
            "unixsocket": socket,
            "unixsocketperm": "700",
            "dir": data,
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
        }
    )
