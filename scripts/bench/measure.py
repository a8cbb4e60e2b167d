"""One measurement: a fresh server, the arm in a process of its own, a sample or the reason why there is none."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from scripts.bench.arm import ARMS, Arm, Sample, Setup, load_arms
from scripts.bench.processes import SPAWN, give_up_after, run_loop
from scripts.bench.servers import NoServer, Storage, running

LAST_RESORT_SECONDS = 5.0
"""How much later than the harness an arm ends itself, should the harness be gone."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one measurement gave."""

    sample: Sample | None = None
    reason: str = ""
    """Why there is no sample, in one line."""
    trace: str = ""
    """The traceback, where something raised."""
    absent: bool = False
    """Nothing failed: a package or a server is not installed here."""
    seconds: float = 0.0


def measure(arm: Arm, quick: bool, storage: Storage) -> Outcome:
    """Measure an arm once; never raises for what the arm does, and ends within its timeout."""
    if missing := [package for package in arm.packages if not importlib.util.find_spec(package)]:
        return Outcome(reason=f"not installed: {', '.join(missing)}", absent=True)
    started = time.monotonic()
    try:
        with running(arm.server, storage) as url:
            outcome = _in_process(arm, _setup(arm, url, quick, storage))
    except NoServer as error:
        return Outcome(reason=str(error), absent=True)
    return Outcome(
        sample=outcome.sample, reason=outcome.reason, trace=outcome.trace, seconds=time.monotonic() - started
    )


def _setup(arm: Arm, url: str, quick: bool, storage: Storage) -> Setup:
    count, warmup = arm.counts(quick)
    return Setup(redis_url=url, nats_url=url, count=count, warmup=warmup, timeout=arm.timeout, storage=storage.value)


def _in_process(arm: Arm, setup: Setup) -> Outcome:
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_arm_process, args=(theirs, arm.name, setup))
    process.start()
    theirs.close()
    try:
        if not ours.poll(setup.timeout):
            return Outcome(reason=f"gave up after {setup.timeout:.0f} s")
        outcome: Outcome = ours.recv()
    except EOFError:
        return Outcome(reason="its process died")
    else:
        return outcome
    finally:
        _kill_group(process.pid)
        process.join()


def _arm_process(connection: Connection, name: str, setup: Setup) -> None:
    os.setsid()  # a group of its own: what it starts is ended with it
    give_up_after(setup.timeout + LAST_RESORT_SECONDS)
    load_arms()
    try:
        outcome = Outcome(sample=run_loop(ARMS[name].measure(setup)))
    except BaseException as error:  # whatever it is, the table says it
        outcome = Outcome(reason=_one_line(error), trace=traceback.format_exc())
    connection.send(outcome)


def _one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _kill_group(pid: int | None) -> None:
    if pid is None:
        return
    for kill in (os.killpg, os.kill):  # the process alone, should it not have made its group yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
