"""One word to a server over its unix socket, before there is a client."""

from __future__ import annotations

import socket
from pathlib import Path

_TIMEOUT_S = 1.0


def ask(path: Path, command: str) -> str:
    """Return the first line of the server's answer; empty when nobody listens or answers within a second."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(512).decode(errors="replace").partition("\r\n")[0]
        except OSError:
            return ""
