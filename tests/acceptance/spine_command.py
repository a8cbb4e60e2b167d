"""The ``spine`` command as its users run it: a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The records of an ndjson output."""
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command in the background; its output is gathered as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._gather, args=(stream, lines))
            for stream, lines in ((process.stdout, self.out), (process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _gather(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def until(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Return the value of `condition` once it is true."""
        give_up = time.monotonic() + TIMEOUT_S
        while time.monotonic() < give_up:
            if value := condition():
                return value
            if self.process.poll() is not None and not condition():
                break
            time.sleep(0.02)
        raise AssertionError(f"{what} never came; out: {self.out}; err: {self.err}")

    def until_said(self, text: str) -> str:
        """Return the first line of stderr that holds `text`."""
        return str(self.until(lambda: next((line for line in list(self.err) if text in line), None), repr(text)))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(TIMEOUT_S)
        for reader in self._readers:
            reader.join(TIMEOUT_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


class Cli:
    """Runs ``spine`` with the arguments given, on the server and in the namespace of the test."""

    def __init__(self, url: str, namespace: str, directory: Path) -> None:
        self.namespace = namespace
        self.directory = directory
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SPINE_")},
            "SPINE_URL": url,
            "SPINE_NAMESPACE": namespace,
            "PYTHONWARNINGS": "error",
            "COLUMNS": "160",
        }
        self._running: list[Running] = []

    def __call__(self, *args: str, stdin: str | bytes = "", **env: str) -> Result:
        """Run a command to its end."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            command(*args),
            input=data,
            capture_output=True,
            timeout=TIMEOUT_S,
            env={**self.env, **env},
            cwd=self.directory,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *args: str, **env: str) -> Running:
        """Start a command that goes on until it is ended."""
        process = subprocess.Popen(
            command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, "PYTHONUNBUFFERED": "1", **env},
            cwd=self.directory,
        )
        running = Running(process)
        self._running.append(running)
        return running

    def end(self) -> None:
        """Kill what still runs."""
        for running in self._running:
            running.end()


def command(*args: str) -> list[str]:
    """Return the command line that runs ``spine`` with `args`."""
    return [sys.executable, "-m", "spine", *args]
