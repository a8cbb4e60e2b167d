"""How far a replay came, kept in a file, so that the next one goes on there."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from spine.errors import InvalidInput

WRITE_EVERY_S = 1.0


class Position:
    """The place of a replay in a file: what was selected, and the seq up to which it was written out.

    It is never ahead of what is on stdout: a replay that dies may write the events of the last second again, and leaves
    none out.

    Args:
        path: the file; it need not exist.
        selected: what the replay selects. A file of another selection is refused.
    """

    def __init__(self, path: Path, selected: str) -> None:
        self._path = path
        self._selected = selected
        self._next = time.monotonic() + WRITE_EVERY_S

    def read(self, otherwise: int) -> int:
        """Return the seq to go on after; `otherwise` where nothing is kept. Raises `InvalidInput`."""
        if not self._path.parent.is_dir() or not os.access(self._path.parent, os.W_OK):
            raise InvalidInput(f"--resume: {self._path} cannot be written: {self._path.parent} is no directory of ours")
        try:
            seq, _, selected = self._path.read_text().rstrip("\n").partition(" ")
        except FileNotFoundError:
            return otherwise
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"--resume: {self._path} cannot be read: {error}") from error
        if not seq.isdecimal():
            raise InvalidInput(f"--resume: {self._path} holds no place of a replay; name another file")
        if selected != self._selected:
            raise InvalidInput(f"--resume: {self._path} is of a replay that selected other events ({selected})")
        return int(seq)

    def reached(self, seq: int) -> None:
        """Tell that everything up to `seq` was written; the file follows within a second."""
        if time.monotonic() >= self._next:
            self.write(seq)

    def write(self, seq: int) -> None:
        """Keep `seq` now, once what is on its way to stdout is there."""
        sys.stdout.flush()
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            fresh.write_text(f"{seq} {self._selected}\n")
            fresh.replace(self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
        self._next = time.monotonic() + WRITE_EVERY_S
