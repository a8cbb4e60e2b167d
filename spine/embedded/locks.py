"""Locks between processes that end with the process holding them, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

_POLL_S = 0.01


class FileLock:
    """A lock on a file: any number of shared holders, or one exclusive holder.

    Programs started by the holder do not inherit it, and neither do forked children: a child that goes on after its
    parent must not count as a holder.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _open_locks.add(self)

    def try_shared(self) -> bool:
        """Become a shared holder, unless somebody holds it exclusively."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Become the only holder, unless somebody else holds it."""
        return self._try(fcntl.LOCK_EX)

    def wait_shared(self, timeout_s: float) -> bool:
        """Become a shared holder within that time; tell whether it came to that."""
        return self._wait(fcntl.LOCK_SH, timeout_s)

    def wait_exclusive(self, timeout_s: float) -> bool:
        """Become the only holder within that time; tell whether it came to that."""
        return self._wait(fcntl.LOCK_EX, timeout_s)

    def close(self) -> None:
        """Give it back. May be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, operation: int) -> bool:
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(self, operation: int, timeout_s: float) -> bool:
        give_up = time.monotonic() + timeout_s
        while not self._try(operation):
            if time.monotonic() > give_up:
                return False
            time.sleep(_POLL_S)
        return True


def is_held(path: Path) -> bool:
    """Tell whether somebody holds the lock exclusively."""
    with FileLock(path) as probe:
        return not probe.try_shared()


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_forked_child() -> None:
    # Closing takes nothing from the parent, whose own descriptor keeps the lock; unlocking would.
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_in_forked_child)
