"""Keeps a server running while anybody uses it, and stops it when nobody does.

Run as a script with the standard library alone (`python -I -S supervisor.py …`), so that it starts in milliseconds and
stays small. It returns to its starter at once and goes on in the background, detached from any terminal:

- it holds the supervisor lock as long as it lives;
- the server inherits the server lock, which is free again only when supervisor and server are both gone: two servers
  never write the same data;
- every user of the server holds the members lock shared: getting it exclusively means that nobody is there. It is then
  kept until the end, so that nobody joins a server that stops;
- the server is bound to it: should it be killed, the kernel (of Linux) tells the server to write everything and end.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

STOP_TIMEOUT_S = 10.0
"""How long a server may take to write everything and end before it is killed."""

_BOUND_EXEC = Path(__file__).with_name("bound_exec.py")
_POLL_S = 0.1
# Those who look whether a lock is held hold it themselves for some microseconds.
_PROBES_TIMEOUT_S = 0.5
_DEATHS_ALLOWED = 3
_DEATHS_WINDOW_S = 10.0


class Supervisor:
    """One server and the files around it."""

    def __init__(self, *, members: Path, server_lock: int, socket: Path, program: list[str]) -> None:
        self._members = members
        self._members_lock = _open(members)
        self._server_lock = server_lock
        self._socket = socket
        self._program = program
        self._deaths: list[float] = []
        self._told_to_stop = False
        self._server = self._start_server()

    def run(self) -> int:
        """Watch over the server until nobody needs it. Returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        while not self._told_to_stop and not _try_lock(self._members_lock):
            if self._directory_is_gone():
                # Ending in order, the server would remove the socket of whoever has started anew in this place.
                self._server.kill()
                self._server.wait()
                return 0
            exit_code = self._server.poll()
            if exit_code is not None:
                if not self._may_restart(exit_code):
                    return 1
                self._server = self._start_server()
            time.sleep(_POLL_S)
        self._stop_server()
        return 0

    def _start_server(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(_BOUND_EXEC), str(int(signal.SIGTERM)), str(os.getpid())]
        return subprocess.Popen([*command, *self._program], stdin=subprocess.DEVNULL, pass_fds=(self._server_lock,))

    def _may_restart(self, exit_code: int) -> bool:
        now = time.monotonic()
        self._deaths = [death for death in self._deaths if now - death < _DEATHS_WINDOW_S] + [now]
        _say(f"the server ended with {exit_code}")
        # A positive code is its own complaint about configuration or data: it would only say the same again.
        return exit_code <= 0 and len(self._deaths) < _DEATHS_ALLOWED

    def _stop_server(self) -> None:
        self._server.terminate()
        self._server.send_signal(signal.SIGCONT)
        try:
            self._server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _say(f"the server did not end within {STOP_TIMEOUT_S} s and is killed")
            self._server.kill()
            self._server.wait()
        with contextlib.suppress(OSError):
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != self._members.parent:
                self._socket.parent.rmdir()

    def _directory_is_gone(self) -> bool:
        try:
            return os.stat(self._members).st_ino != os.fstat(self._members_lock).st_ino
        except OSError:
            return True

    def _on_sigterm(self, *_: object) -> None:
        self._told_to_stop = True


def main() -> NoReturn:
    """Detach and supervise."""
    parser = argparse.ArgumentParser(description="Keep a server running while anybody holds the members lock.")
    for name in ("--supervisor-lock", "--server-lock", "--members-lock", "--socket"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()

    own_lock = _open(options.supervisor_lock)
    if not _wait_lock(own_lock, _PROBES_TIMEOUT_S):
        sys.exit(0)  # another supervisor was quicker
    if os.fork():
        os._exit(0)  # the lock stays with the child

    server_lock = _open(options.server_lock)
    if not _wait_lock(server_lock, 2 * STOP_TIMEOUT_S):
        _say("an earlier server on this data does not end")
        sys.exit(1)
    sys.exit(
        Supervisor(
            members=options.members_lock, server_lock=server_lock, socket=options.socket, program=options.program
        ).run()
    )


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_lock(descriptor: int, timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while not _try_lock(descriptor):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def _say(text: str) -> None:
    print(f"supervisor {os.getpid()}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
