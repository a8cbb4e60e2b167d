"""Joining and leaving the server of a project directory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from spine.embedded import configuration, supervisor
from spine.embedded.binary import find_server
from spine.embedded.directory import ServerDirectory
from spine.embedded.inline import ask
from spine.embedded.locks import FileLock, is_held
from spine.errors import EmbeddedServerError

# Longer than a supervisor gives its server to write everything and end.
_STOPPING_TIMEOUT_S = supervisor.STOP_TIMEOUT_S + 20.0
_START_TIMEOUT_S = 30.0
# What failed may have been killed, and not have failed by itself.
_START_ATTEMPTS = 3
_LEAVE_TIMEOUT_S = 5.0
_POLL_S = 0.01
_LOG_TAIL_LINES = 20


class EmbeddedServer:
    """Membership in the server that all processes of one project directory share.

    The first one to join starts it, the last one to leave stops it, and a process that dies has left. What the server
    acknowledged outlives every process that uses it; a crash of the machine can cost the last second or two.

    Attributes:
        url: Where clients connect, `unix:///…`.
    """

    def __init__(self, directory: ServerDirectory, membership: FileLock) -> None:
        self._directory = directory
        self._membership = membership
        self.url = _url(directory)

    @classmethod
    def join(cls, directory: Path | None = None) -> Self:
        """Join the server of a directory, starting it when it does not run. It answers when this returns.

        Args:
            directory: Where it keeps its files; when None, see `spine.embedded.directory.find_directory`.

        Raises:
            EmbeddedServerError: It cannot be started; the message says why and what to do.
        """
        place = ServerDirectory.prepare(directory)
        return cls(place, _join(place))

    def ensure_running(self) -> None:
        """Start the server again if it is gone, for a member whose connection broke.

        The supervisor restarts a server that dies; a killed supervisor or a deleted directory makes this necessary.

        Raises:
            EmbeddedServerError: It cannot be started.
        """
        before = self._membership
        self._directory = ServerDirectory.prepare(self._directory.path)
        self._membership = _join(self._directory)
        self.url = _url(self._directory)
        before.close()

    def leave(self) -> None:
        """Leave it; the last one to leave waits until it has stopped (up to 5 s). May be called twice."""
        self._membership.close()
        give_up = time.monotonic() + _LEAVE_TIMEOUT_S
        while _is_stopping(self._directory) and time.monotonic() < give_up:
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def _join(place: ServerDirectory) -> FileLock:
    membership = FileLock(place.members_lock)
    try:
        _wait_while_stopping(place, membership)
        _ensure_running(place)
    except OSError as error:
        membership.close()
        raise EmbeddedServerError(f"the embedded server cannot run in {place.path}: {error}") from error
    except BaseException:
        membership.close()
        raise
    return membership


def _wait_while_stopping(place: ServerDirectory, membership: FileLock) -> None:
    if not membership.wait_shared(_STOPPING_TIMEOUT_S):
        raise EmbeddedServerError(f"the server of {place.path} has been stopping for {_STOPPING_TIMEOUT_S:.0f} s")


def _url(place: ServerDirectory) -> str:
    return f"unix://{quote(os.fsencode(place.socket()))}"


def _ensure_running(place: ServerDirectory) -> None:
    """Return when the server answers; start it, or start it again, when nobody looks after it."""
    for _ in range(_START_ATTEMPTS):
        with FileLock(place.start_lock) as start:
            if not start.wait_exclusive(_START_TIMEOUT_S):
                raise EmbeddedServerError(f"another process has been starting the server of {place.path} for too long")
            if not is_held(place.supervisor_lock):
                _start_supervisor(place)
        if _wait_until_answering(place):
            return
        if is_held(place.supervisor_lock):
            break
    raise EmbeddedServerError(f"the embedded server did not start; {place.log} ends with\n{_log_tail(place)}")


def _start_supervisor(place: ServerDirectory) -> None:
    server = find_server()
    # Where the kernel does not end the server of a killed supervisor, it is still there.
    ask(place.socket(), "SHUTDOWN NOSAVE")
    socket = place.choose_socket()
    place.configuration.write_text(configuration.embedded(data=place.data, socket=socket))
    with contextlib.suppress(FileNotFoundError):
        place.log.replace(place.log.with_suffix(".log.1"))
    command = [sys.executable, "-I", "-S", supervisor.__file__]
    command += ["--supervisor-lock", str(place.supervisor_lock), "--server-lock", str(place.server_lock)]
    command += ["--members-lock", str(place.members_lock), "--socket", str(socket)]
    command += ["--", str(server), str(place.configuration)]
    with place.log.open("wb") as log:
        subprocess.run(  # it goes on in the background; whether that worked shows in its lock and its log
            command,
            cwd=place.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
            check=False,
        )


def _wait_until_answering(place: ServerDirectory) -> bool:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up:
        # First the supervisor, then the server: without the one, the other may be about to end.
        if not is_held(place.supervisor_lock):
            return False
        answer = ask(place.socket(), "PING")
        if answer.startswith("-LOADING"):
            give_up = time.monotonic() + _START_TIMEOUT_S
        elif answer:
            return True
        time.sleep(_POLL_S)
    return False


def _is_stopping(place: ServerDirectory) -> bool:
    """Tell whether the server still runs though nobody uses it."""
    try:
        # The start lock keeps those apart who look: each holds the members lock for a moment, like a member.
        with FileLock(place.start_lock) as start, FileLock(place.members_lock) as members:
            unused = start.wait_exclusive(_LEAVE_TIMEOUT_S) and (members.try_exclusive() or not members.try_shared())
        return unused and is_held(place.supervisor_lock)
    except FileNotFoundError:  # the whole directory was deleted
        return False


def _log_tail(place: ServerDirectory) -> str:
    lines = place.log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])
