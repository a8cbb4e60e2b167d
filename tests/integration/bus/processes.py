"""Processes of these tests: started with a script of this directory, never left behind."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).parent


class Script:
    """A running script; what it prints is in `lines`."""

    def __init__(self, name: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / name), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def said(self, text: str) -> Callable[[], bool]:
        """Return the condition that a line begins with `text`."""
        return lambda: any(line.startswith(text) for line in list(self.lines))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._end()

    def finish(self) -> int:
        """Close its input and return its exit code."""
        self.process.stdin.close()
        self.process.wait(20)
        self._end()
        return self.process.returncode

    def _end(self) -> None:
        self.process.wait()
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        elif not self.process.stdout.closed:
            self._end()
