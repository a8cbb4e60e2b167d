"""The servers that the other tests run on: they come back with their data and never outlive the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from spine.testing.servers import RedisServer


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def port_answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_comes_back_with_its_data_after_a_kill(tmp_path: Path) -> None:
    with (
        RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        client.set("kept", "yes")
        server.kill()
        assert not port_answers(server.port)
        server.restart()
        assert client.get("kept") == b"yes"


def test_a_paused_one_answers_nothing_until_it_goes_on(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        server.pause()
        with redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.cont()
            assert client.ping()


def test_a_paused_one_can_be_stopped(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        server.pause()
        server.stop()
        assert not port_answers(server.port)


def test_a_password_is_part_of_its_url(tmp_path: Path) -> None:
    with (
        RedisServer.start(tmp_path, config={"requirepass": "secret"}) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.ping()


def test_one_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-directive"):
        RedisServer.start(tmp_path, config={"no-such-directive": "1"})


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel ends children with their parent")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_never_outlives_the_process_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "import sys, time; from pathlib import Path; from spine.testing.servers import RedisServer\n"
        "server = RedisServer.start(Path(sys.argv[1])); print(server.port, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            port = int(owner.stdout.readline())
            assert port_answers(port)
        finally:
            os.kill(owner.pid, how)
        owner.wait()
    assert wait_until(lambda: not port_answers(port))
