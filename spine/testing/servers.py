"""Real servers for tests: started on a free port, paused, killed, restarted, and never left behind."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from spine.embedded import bound_exec, configuration
from spine.embedded.binary import find_server

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.005
# Below the range of outgoing connections: a client that keeps dialling a stopped server on a port of that range can end
# up connected to itself, and the server then cannot come back. A cluster's bus port is 10,000 higher, and is below too.
_PORTS = range(11_000, 22_000)

# The kernel binds a server to the thread that started it, so all are started by one that lives as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spine-test-servers")
_running: set[RedisServer] = set()


class RedisServer:
    """A Valkey or Redis process of a test, on loopback.

    It is `$SPINE_TEST_SERVER` when that is set, else what the embedded server would use. It is killed when the test
    process ends, however that ends (on Linux also by SIGKILL).

    Attributes:
        url: Where clients connect; holds the password when `requirepass` is configured.
        port: TCP port on 127.0.0.1; stays the same through restarts.
        directory: Holds the configuration, the data and `server.log`.
    """

    def __init__(self, directory: Path, *, port: int, config: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = port
        password = config.get("requirepass")
        self.url = f"redis://:{password}@127.0.0.1:{port}/0" if password else f"redis://127.0.0.1:{port}/0"
        self._config = dict(config)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        port: int | None = None,
        appendonly: bool = False,
        appendfsync: str = "everysec",
        config: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a server that answers when this returns.

        Args:
            directory: Its working directory; made if missing.
            port: Fixed port; a free one when None.
            appendonly: Whether data survives `kill` and `restart`.
            appendfsync: When the append-only file is synced: "always", "everysec" or "no".
            config: Further directives as in valkey.conf, taking precedence.

        Raises:
            RuntimeError: It did not start; the message ends with its log.
        """
        directory.mkdir(parents=True, exist_ok=True)
        server = cls(
            directory,
            port=_free_port() if port is None else port,
            config={
                "save": '""',
                "appendonly": "yes" if appendonly else "no",
                "appendfsync": appendfsync,
                **(config or {}),
            },
        )
        server._launch()
        return server

    @property
    def pid(self) -> int:
        """The process id of the server that runs, or ran last."""
        if self._process is None:
            raise RuntimeError("the server was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it in order, its data written. Does nothing when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL. Does nothing when it is not running."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start it again on the same port and data, stopping it first when it runs."""
        self.stop()
        self._launch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _launch(self) -> None:
        directives: dict[str, str | Path] = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": self.directory.resolve(),
            "daemonize": "no",
            **self._config,
        }
        config_file = self.directory / "server.conf"
        config_file.write_text(configuration.rendered(directives))
        command = bound_exec.command(signal.SIGKILL, [str(_binary()), str(config_file)])
        with (self.directory / "server.log").open("ab") as log:
            self._process = _starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, not for their servers
            ).result()
        _running.add(self)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + _START_TIMEOUT_S
        while self.running and time.monotonic() < give_up:
            if _answers(self.port):
                return
            time.sleep(_POLL_S)
        self.kill()
        log = (self.directory / "server.log").read_text(errors="replace")
        raise RuntimeError(f"the server on port {self.port} did not start:\n{log[-2000:]}")

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(with_signal)
            self._process.send_signal(signal.SIGCONT)  # a paused one would never see the signal
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _running.discard(self)


def _binary() -> Path:
    chosen = os.environ.get("SPINE_TEST_SERVER")
    return Path(chosen) if chosen else find_server()


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:  # somebody has it
            continue


def _answers(port: int) -> bool:
    """Tell whether commands are served: its data loaded, and a password or not."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


@atexit.register
def _kill_all() -> None:
    for server in list(_running):
        server.kill()
