"""The harness: every figure has its arms, and an arm ends in time whatever it does."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scripts.bench import measure as measuring
from scripts.bench.arm import Arm, Setup, load_arms
from scripts.bench.events import KEYS, Envelopes, envelope_of
from scripts.bench.figures import FIGURES, arms_of
from scripts.bench.load import in_flight, in_turn, percentiles, rate_in_batches, rate_in_flight
from scripts.bench.measure import measure
from scripts.bench.servers import NoServer, Storage, running

SETUP = Setup(redis_url="", nats_url="", count=100, warmup=10, timeout=5)


def test_every_arm_of_a_figure_exists_and_none_is_left_over() -> None:
    assert set(arms_of(FIGURES)) == set(load_arms())


def test_the_common_event_is_about_330_bytes_of_msgpack() -> None:
    msgpack = pytest.importorskip("msgpack")
    assert 300 <= len(msgpack.packb(envelope_of(1_000_000))) <= 360


def test_envelopes_are_made_beforehand_and_keys_come_round() -> None:
    envelopes = Envelopes()
    assert envelopes[5] is envelopes[5 + KEYS]
    assert envelopes[5]["key"] != envelopes[6]["key"]


async def test_in_flight_keeps_to_its_number_and_makes_every_call_once() -> None:
    under_way, most, seen = 0, 0, []

    async def call(number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        seen.append(number)

    await in_flight(call, range(50), 8)
    assert most == 8
    assert sorted(seen) == list(range(50))


async def test_rates_count_what_came_after_the_warm_up() -> None:
    clock: list[int] = []

    async def call(numbers: int | range) -> None:
        clock.append(1)
        if len(clock) == 1:
            await asyncio.sleep(0.2)  # a slow first call belongs to the warm-up

    batched = await rate_in_batches(call, SETUP, 20)
    assert len(clock) == 6  # 10 to warm up, then 100 in batches of 20
    assert batched["rate"] > SETUP.total / 0.2
    clock.clear()
    single = await rate_in_flight(call, SETUP, 4)
    assert len(clock) == SETUP.total
    assert single["rate"] > SETUP.count / 0.2


def test_percentiles_are_in_microseconds() -> None:
    sample = percentiles([number / 1e6 for number in range(1, 1001)])
    assert sample == pytest.approx({"p50": 501, "p99": 991, "p999": 1000})


def test_a_package_that_is_missing_is_named_and_nothing_is_run() -> None:
    outcome = measure(an_arm(packages=("no_such_package_here",)), quick=True, storage=Storage.MEMORY)
    assert (outcome.absent, outcome.reason) == (True, "not installed: no_such_package_here")


def test_a_server_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.bench.servers.shutil.which", lambda *_, **__: None)
    outcome = measure(an_arm(server="nats"), quick=True, storage=Storage.MEMORY)
    assert outcome.absent
    assert "apt-get install nats-server" in outcome.reason


def test_an_arm_that_hangs_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("BENCH_TEST_PIDS", str(pids))
    monkeypatch.setattr(measuring, "_arm_process", hanging_process)
    started = time.monotonic()
    outcome = measure(an_arm(timeout=1.5), quick=True, storage=Storage.MEMORY)
    assert outcome.reason == "gave up after 2 s"
    assert time.monotonic() - started < 10
    for pid in map(int, pids.read_text().split()):
        assert gone(pid)


def test_an_arm_whose_process_dies_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_arm_process", dying_process)
    assert measure(an_arm(), quick=True, storage=Storage.MEMORY).reason == "its process died"


def test_an_arm_that_raises_gives_its_reason_and_its_traceback() -> None:
    outcome = measure(an_arm(name="no.such.arm"), quick=True, storage=Storage.MEMORY)
    assert outcome.sample is None
    assert "no.such.arm" in outcome.reason
    assert "Traceback" in outcome.trace


def test_a_server_is_fresh_and_gone_after_its_block() -> None:
    from redis import Redis
    from redis.exceptions import ConnectionError as GoneError

    for _ in range(2):
        with running("redis", Storage.FILE) as url:
            client = Redis.from_url(url)
            assert client.dbsize() == 0
            client.set("left", "over")
        with pytest.raises(GoneError):
            client.ping()
        client.close()


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.bench.servers.redis_binary", lambda: "/bin/false")
    with pytest.raises(NoServer, match="does not start"), running("redis", Storage.FILE):
        pass


def an_arm(
    name: str = "test.arm", server: str | None = None, packages: tuple[str, ...] = (), timeout: float = 20
) -> Arm:
    async def never(_: Setup) -> dict[str, float]:
        raise NotImplementedError

    return Arm(
        name=name,
        measure=never,
        server=server,  # type: ignore[arg-type]
        packages=packages,
        count=1,
        quick_count=1,
        timeout=timeout,
    )


def hanging_process(connection: object, name: str, setup: Setup) -> None:
    os.setsid()
    os.fork()
    with open(os.environ["BENCH_TEST_PIDS"], "a") as pids:
        pids.write(f"{os.getpid()}\n")
    time.sleep(60)


def dying_process(connection: object, name: str, setup: Setup) -> None:
    os._exit(3)


def gone(pid: int) -> bool:
    """True once the process no longer runs; a killed one may be unreaped for a moment."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


async def test_what_is_compared_is_measured_in_turn_and_each_number_once() -> None:
    order: list[str] = []
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def measure(name: str, rate: float) -> Callable[[range], Awaitable[float]]:
        async def of(numbers: range) -> float:
            order.append(name)
            seen[name] += numbers
            return rate + len(order)

        return of

    medians = await in_turn({"a": measure("a", 100), "b": measure("b", 200)}, range(70))
    assert seen == {"a": [*range(70)], "b": [*range(70)]}
    assert "".join(order) == "baabbaabbaabba"
    assert 100 < medians["a"] < 200 < medians["b"]
