"""The embedded server lives exactly as long as somebody uses it, however they end, and keeps what it acknowledged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from spine.embedded import EmbeddedServer
from spine.embedded.locks import FileLock, is_held
from spine.errors import EmbeddedServerError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

GONE_WITHIN_S = 3.0

MEMBER = """
import sys
from pathlib import Path
from spine.embedded import EmbeddedServer
from spine.embedded.locks import FileLock, is_held
with EmbeddedServer.join(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


class Member:
    """Another process that has joined; it leaves when its standard input is closed."""

    def __init__(self, place: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def joined(self) -> str:
        """Wait until it has joined and return the url it got."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        assert self.process.wait(30) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / ".spine"
    yield directory
    shutil.rmtree(directory, ignore_errors=True)  # whatever still runs there ends by that


@pytest.fixture
def member(place: Path) -> Iterator[Callable[[], Member]]:
    members: list[Member] = []

    def start() -> Member:
        members.append(Member(place))
        return members[-1]

    yield start
    for each in members:
        each.kill()
        assert each.process.stdin is not None
        assert each.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            each.process.stdin.close()
        each.process.stdout.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def process_state(pid: int) -> tuple[str, int] | None:
    """The state letter and the parent of a process."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return after_name[0], int(after_name[1])


def is_gone(pid: int) -> bool:
    state = process_state(pid)
    return state is None or state[0] in "ZX"  # dead and waiting for an init that may not collect it


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def supervisor_pid(url: str) -> int:
    state = process_state(server_pid(url))
    assert state is not None
    return state[1]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: is_gone(pid))


def put(url: str, name: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(name, "kept")


def is_kept(url: str, name: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return client.get(name) == b"kept"


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, retry=None) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_second_process_joins_the_server_of_the_first(place: Path, member: Callable[[], Member]) -> None:
    with EmbeddedServer.join(place) as server:
        assert member().joined() == server.url


def test_many_that_come_at_once_share_one_server(place: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        servers = list(pool.map(lambda _: EmbeddedServer.join(place), range(20)))
        assert len({server_pid(server.url) for server in servers}) == 1
        server = server_pid(servers[0].url)
        list(pool.map(EmbeddedServer.leave, servers))
    assert is_gone(server)


def test_only_its_user_can_open_it(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("port") == {"port": "0"}


def test_it_is_set_up_to_lose_nothing(place: Path) -> None:
    with EmbeddedServer.join(place) as server, redis.Redis.from_url(server.url) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
        assert client.config_get(*wanted) == wanted


def test_the_last_one_to_leave_stops_it_and_the_next_finds_the_data(place: Path) -> None:
    first, second = EmbeddedServer.join(place), EmbeddedServer.join(place)
    pids = server_pid(first.url), supervisor_pid(first.url)
    first.leave()
    assert answers(second.url)
    put(second.url, "order")
    second.leave()
    assert all(is_gone(pid) for pid in pids)
    with EmbeddedServer.join(place) as server:
        assert is_kept(server.url, "order")


def test_leaving_twice_takes_nothing_from_others(place: Path) -> None:
    first = EmbeddedServer.join(place)
    with EmbeddedServer.join(place) as second:
        first.leave()
        first.leave()
        assert answers(second.url)


def test_another_one_keeps_it_when_its_starter_is_killed(place: Path, member: Callable[[], Member]) -> None:
    starter = member()
    url = starter.joined()
    pid = server_pid(url)
    with EmbeddedServer.join(place) as other:
        starter.kill()
        # Long enough for the supervisor to look many times.
        assert not wait_until(lambda: is_gone(pid), timeout_s=0.5)
        assert server_pid(other.url) == pid


def test_nothing_runs_for_long_when_all_are_killed_and_nothing_is_lost(
    place: Path, member: Callable[[], Member]
) -> None:
    members = [member(), member()]
    url, _ = [each.joined() for each in members]
    pids = server_pid(url), supervisor_pid(url)
    put(url, "order")
    for each in members:
        each.kill()
    assert wait_until(lambda: all(is_gone(pid) for pid in pids), GONE_WITHIN_S)
    with EmbeddedServer.join(place) as server:
        assert is_kept(server.url, "order")


def test_a_killed_supervisor_takes_the_server_along_and_the_next_to_join_recovers(place: Path) -> None:
    with EmbeddedServer.join(place) as first:
        server = server_pid(first.url)
        put(first.url, "order")
        kill(supervisor_pid(first.url))
        assert wait_until(lambda: is_gone(server), GONE_WITHIN_S)
        with EmbeddedServer.join(place) as second:
            assert is_kept(second.url, "order")
            assert is_kept(first.url, "order")


def test_no_server_starts_while_an_earlier_one_may_still_write(place: Path) -> None:
    EmbeddedServer.join(place).leave()
    earlier = FileLock(place / "server.lock")
    assert earlier.try_exclusive()
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(EmbeddedServer.join, place)
        assert wait_until(lambda: is_held(place / "supervisor.lock"))
        assert not wait_until(joining.done, timeout_s=1.0)  # without the lock it takes a fraction of that
        earlier.close()
        with joining.result() as server:
            assert answers(server.url)


def test_a_member_recovers_from_a_killed_supervisor_by_itself(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        put(server.url, "order")
        kill(supervisor_pid(server.url))
        server.ensure_running()
        assert is_kept(server.url, "order")
        pid = server_pid(server.url)
    assert is_gone(pid)


def test_making_sure_of_a_running_server_changes_nothing(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        pid = server_pid(server.url)
        server.ensure_running()
        assert server_pid(server.url) == pid


def test_a_killed_server_is_started_again_for_those_who_use_it(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        pid = server_pid(server.url)
        put(server.url, "order")
        kill(pid)
        assert wait_until(lambda: answers(server.url))
        assert is_kept(server.url, "order")


def test_supervisor_and_server_killed_together_are_replaced(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        pids = supervisor_pid(server.url), server_pid(server.url)
        put(server.url, "order")
        for pid in pids:
            kill(pid)
        server.ensure_running()
        assert is_kept(server.url, "order")


def test_a_terminated_supervisor_stops_its_server_in_order(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        pids = server_pid(server.url), supervisor_pid(server.url)
        os.kill(pids[1], signal.SIGTERM)
        assert wait_until(lambda: all(is_gone(pid) for pid in pids), GONE_WITHIN_S)
        server.ensure_running()
        assert answers(server.url)


def test_joining_while_it_stops_gets_a_server_that_stays(place: Path) -> None:
    """Join again and again, each time at the moment when the last one has just left."""
    for _ in range(10):
        leaving = EmbeddedServer.join(place)
        thread = threading.Thread(target=leaving.leave)
        thread.start()
        with EmbeddedServer.join(place) as server:
            thread.join()
            put(server.url, "order")
            assert is_kept(server.url, "order")


def test_a_log_cut_off_by_a_crash_costs_only_what_was_cut(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        put(server.url, "first")
        put(server.url, "second")
    [log] = (place / "data").rglob("*.incr.aof")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 3)
    with EmbeddedServer.join(place) as server:
        assert is_kept(server.url, "first")
        assert not is_kept(server.url, "second")


def test_damaged_data_is_reported_with_the_words_of_the_server(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        put(server.url, "order")
    [log] = (place / "data").rglob("*.incr.aof")
    log.write_bytes(b"nonsense\r\n" * 100)
    with pytest.raises(EmbeddedServerError, match="Bad file format reading the append only file"):
        EmbeddedServer.join(place)


def test_a_server_that_cannot_run_here_is_reported(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho wrong architecture >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("spine.embedded.server.find_server", lambda: broken)
    with pytest.raises(EmbeddedServerError, match="wrong architecture"):
        EmbeddedServer.join(place)


def test_files_left_by_a_crash_are_in_nobodys_way(place: Path) -> None:
    place.mkdir(mode=0o700)
    for name in ("server.sock", "server.lock", "supervisor.lock", "members.lock", "start.lock"):
        (place / name).write_text("99999")
    with EmbeddedServer.join(place) as server:
        assert answers(server.url)


FORK = "child = os.fork() or signal.pause()"
START = "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=2).pid"


@pytest.mark.parametrize("statement", [FORK, START])
def test_a_child_that_outlives_its_parent_does_not_count_as_a_member(place: Path, statement: str) -> None:
    program = "import os, signal, subprocess\n" + MEMBER.replace(
        "sys.stdin.read()", f"{statement}; print(child, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = server_pid(parent.stdout.readline().strip())
        child = int(parent.stdout.readline())
        try:
            parent.kill()
            assert wait_until(lambda: is_gone(pid), GONE_WITHIN_S)
            assert not is_gone(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_path_too_long_for_a_socket_works_as_well(tmp_path: Path) -> None:
    place = tmp_path / ("deep-" * 30) / ".spine"
    with EmbeddedServer.join(place) as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert answers(server.url)
        assert not socket.is_relative_to(place)
    assert not socket.parent.exists()


@pytest.mark.parametrize("name", ["with space", 'quo"te', "per%20cent", "ha#sh?", "naïve", "back\\slash"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    with EmbeddedServer.join(tmp_path / name / ".spine") as server:
        assert answers(server.url)


def test_deleting_the_directory_ends_the_server(place: Path) -> None:
    with EmbeddedServer.join(place) as server:
        pid = server_pid(server.url)
        shutil.rmtree(place)
        assert wait_until(lambda: is_gone(pid), GONE_WITHIN_S)
        server.ensure_running()
        assert answers(server.url)
