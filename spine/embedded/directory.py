"""Where the embedded server of a project lives, and what is in there."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from spine.errors import EmbeddedServerError

_NAME = ".spine"
_MARKERS = ("pyproject.toml", ".git")
# Linux takes 107 bytes, macOS 103.
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True, slots=True)
class ServerDirectory:
    """The files of one embedded server. Only the user who owns them can open them."""

    path: Path

    @classmethod
    def prepare(cls, path: Path | None = None) -> ServerDirectory:
        """Make the directory, or check the one that is there.

        Raises:
            EmbeddedServerError: It cannot be made, or belongs to somebody else.
        """
        chosen = (path if path is not None else find_directory()).expanduser().absolute()
        try:
            chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_mine(chosen):
                raise EmbeddedServerError(
                    f"{chosen} belongs to user {chosen.stat().st_uid}, not to {os.geteuid()}: its server is not yours "
                    "to share. Choose another directory with $SPINE_DIR."
                )
            chosen.chmod(0o700)
            ignore = chosen / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            (chosen / "data").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"the embedded server cannot keep its data in {chosen}: {error}. Choose another directory with "
                "$SPINE_DIR, or a server with $SPINE_URL."
            ) from error
        return cls(chosen.resolve())

    @property
    def start_lock(self) -> Path:
        """Held exclusively by whoever looks whether a supervisor has to be started."""
        return self.path / "start.lock"

    @property
    def members_lock(self) -> Path:
        """Held shared by every process that uses the server; exclusively by a supervisor that stops."""
        return self.path / "members.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Held exclusively by the supervisor as long as it lives."""
        return self.path / "supervisor.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the supervisor and its server together, until both are gone."""
        return self.path / "server.lock"

    @property
    def data(self) -> Path:
        """Where the server keeps its append-only file."""
        return self.path / "data"

    @property
    def configuration(self) -> Path:
        """What the server reads when it starts."""
        return self.path / "server.conf"

    @property
    def log(self) -> Path:
        """What supervisor and server say; that of the start before is kept beside it."""
        return self.path / "server.log"

    def socket(self) -> Path:
        """Return where the running server listens, or listened last."""
        recorded = self.path / "socket"
        try:
            return Path(os.fsdecode(recorded.read_bytes()))
        except FileNotFoundError:
            return self.path / "server.sock"

    def choose_socket(self) -> Path:
        """Settle where a server about to start listens, and remove what an earlier one left there.

        Where the usual path is too long for a socket, it is in a short private directory, which is recorded.

        Raises:
            EmbeddedServerError: There is no directory for it.
        """
        chosen = self.path / "server.sock"
        recorded = self.path / "socket"
        if _fits(chosen):
            recorded.unlink(missing_ok=True)
        elif _is_private(self.socket().parent) and self.socket() != chosen:
            chosen = self.socket()
        else:
            chosen = Path(tempfile.mkdtemp(prefix="spine-", dir=_short_directory())) / "s"
            recorded.write_bytes(os.fsencode(chosen))
        chosen.unlink(missing_ok=True)
        return chosen


def find_directory() -> Path:
    """Return the directory of the project we are in.

    `$SPINE_DIR`; else `.spine` in the nearest directory above, or this one, that has a `.spine` of ours, a
    pyproject.toml or a .git; else `.spine` here.
    """
    configured = os.environ.get("SPINE_DIR")
    if configured:
        return Path(configured)
    here = Path.cwd()
    for candidate in (here, *here.parents):
        own = candidate / _NAME
        if (own.is_dir() and _is_mine(own)) or any((candidate / marker).exists() for marker in _MARKERS):
            return own
    return here / _NAME


def _is_mine(path: Path) -> bool:
    return path.stat().st_uid == os.geteuid()


def _is_private(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH


def _short_directory() -> Path:
    candidates = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
    for candidate in filter(None, candidates):
        if os.access(candidate, os.W_OK | os.X_OK) and _fits(Path(candidate) / "spine-XXXXXXXX" / "s"):
            return Path(candidate)
    raise EmbeddedServerError(
        "no directory has a path short enough for a unix socket and can be written: set $SPINE_DIR or $TMPDIR to one"
    )
