"""Whatever is killed around an embedded server, at any moment: nothing acknowledged is lost, nothing runs on."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from spine.embedded import EmbeddedServer

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

# A round is about five times the work of an example of a property test.
ROUNDS = max(1, int(os.environ.get("SPINE_CHAOS_EXAMPLES", "200")) // 5)
MEMBERS = 3
KILLS = 4
GONE_WITHIN_S = 3.0

WRITER = """
import sys
from pathlib import Path
import redis
from spine.embedded import EmbeddedServer
server = EmbeddedServer.join(Path(sys.argv[1]))
number = 0
while True:
    with redis.Redis.from_url(server.url, retry=None) as client:
        try:
            while True:
                client.sadd("acknowledged", f"{sys.argv[2]}-{number + 1}")
                number += 1
                print(number, flush=True)
        except (redis.ConnectionError, redis.BusyLoadingError):
            server.ensure_running()
"""


class Writer:
    """A process that adds numbered entries and writes down what was acknowledged."""

    def __init__(self, place: Path, name: str, notes: Path) -> None:
        self.name = name
        self.notes = notes / name
        self.complaints = notes / f"{name}.err"
        with self.notes.open("wb") as out, self.complaints.open("wb") as err:
            self.process = subprocess.Popen([sys.executable, "-c", WRITER, place, name], stdout=out, stderr=err)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def acknowledged(self) -> int:
        lines = re.findall(r"^(\d+)\n", self.notes.read_text(), re.MULTILINE)
        return int(lines[-1]) if lines else 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / ".spine"
    shutil.rmtree(tmp_path / ".spine", ignore_errors=True)  # whatever still runs there ends by that


def processes_of(place: Path) -> dict[str, int]:
    """The supervisor and the server of the directory, as far as they run."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if entry.name.isdigit() and str(place) in command and "-c\0" not in command:
                found["supervisor" if "supervisor.py" in command else "server"] = int(entry.name)
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_random_kills(place: Path, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    writers = [Writer(place, f"w{number}", tmp_path) for number in range(MEMBERS)]
    living = list(writers)
    try:
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.0, 0.4))  # the moment of the kill is what is drawn, not waited for
            victim = dice.choice(["writer", "supervisor", "server"])
            if victim == "writer":
                killed = living.pop(dice.randrange(len(living)))
                killed.kill()
                writers.append(Writer(place, f"w{len(writers)}", tmp_path))
                living.append(writers[-1])
            elif victim in (running := processes_of(place)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running[victim], signal.SIGKILL)
        progress = {writer.name: writer.acknowledged() for writer in living}
        assert wait_until(lambda: all(w.acknowledged() > progress[w.name] for w in living), 30), [
            writer.complaints.read_text() for writer in living
        ]
    finally:
        for writer in living:
            writer.kill()
    assert wait_until(lambda: not processes_of(place), GONE_WITHIN_S), processes_of(place)
    with EmbeddedServer.join(place) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        stored = client.smembers("acknowledged")
    for writer in writers:
        assert {f"{writer.name}-{number}" for number in range(1, writer.acknowledged() + 1)} <= stored
