"""A worker that is started anew when a file of its application changes, and kept while the new code cannot be had."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from spine.cli.output import say

LOOK_EVERY_S = 0.3
END_S = 10.0
Seen = dict[str, tuple[int, int]]


def python_files(directory: Path) -> Seen:
    """Return the Python files below `directory` with time and size; what is hidden or installed is left out."""
    found: Seen = {}
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if _may_change(Path(place, name))]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(place, name)
                try:
                    status = os.stat(path)
                except OSError:  # gone since
                    continue
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def _may_change(directory: Path) -> bool:
    installed = directory.name in ("__pycache__", "node_modules") or (directory / "pyvenv.cfg").exists()
    return not installed and not directory.name.startswith(".")


class Reloading:
    """Keeps a worker process that runs the code as it is in the files.

    Args:
        command: what starts it; with ``--check`` added it must end with 0 before a worker is replaced.
        directory: whose files are watched.
        environment: of the worker.
    """

    def __init__(self, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        self._directory = directory
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Go on until cancelled; the worker ends in order then."""
        seen = python_files(self._directory)
        try:
            await self._start()
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                self._tell_of_its_end()
                if (now := python_files(self._directory)) != seen:
                    seen = now
                    await self._reload()
        finally:
            await self._end()

    async def _reload(self) -> None:
        check = await asyncio.create_subprocess_exec(
            *self._command, "--check", env=self._environment, stdout=asyncio.subprocess.DEVNULL
        )
        if await check.wait():
            say("not reloaded: what ran before goes on")
            return
        say("reloading")
        await self._end()
        await self._start()

    async def _start(self) -> None:
        # A session of its own: a Ctrl-C at the terminal is for us, who end it in order.
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, start_new_session=True, stdin=asyncio.subprocess.DEVNULL
        )

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _tell_of_its_end(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            say(f"the worker ended with {self._process.returncode}; the next change starts another")
            self._process = None
