"""Whatever is published, fails, dies, freezes, is redriven, discarded or trimmed: order per key, and every effect once.

Each example is a history that hypothesis makes up, played on a real server with two workers and more, and compared
with a model that only knows what was published and what was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from pydantic import BaseModel
from tenacity import wait_fixed

from spine import Agent, Draft, Event, Handling, Priority, Retry, Spine, Worker, on, reduces
from spine.delivery.records import DeadLetter
from spine.link import Link
from spine.state.fold import Cell
from spine.testing.servers import RedisServer

EXAMPLES = int(os.environ.get("SPINE_CHAOS_EXAMPLES", "20"))
STEPS = 50
LEASE_S = 0.5
SETTLED_S = 60.0
FREEZES = 2
KEYS = ("a", "b", "c")
TOPICS = tuple(f"{kind}.{number}" for kind in ("goes", "parks", "parks") for number in range(6))
FATES = ("fine", "fine", "fine", "stubborn", "once", "twice", "dead")
TIMES_MS = (0, 0, 1, 3, 20)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600 + 30 * EXAMPLES)]


class Seen(BaseModel):
    """Every event of a key."""

    seqs: tuple[int, ...] = ()


class Actor(Agent[Seen]):
    """Does what its events say: works, fails a few times, or fails until it is mended."""

    name = "actor"
    prefetch = 6
    mended: ClassVar[set[int]] = set()

    @reduces("goes.*", "parks.*")
    def see(self, state: Seen, event: Event[Any]) -> Seen:
        return Seen(seqs=(*state.seqs, event.seq))

    @on("goes.*", retry=Retry(attempts=4, wait=wait_fixed(0.01)))
    async def goes_on(self, event: Event[Any], ctx: Handling) -> None:
        await self.act(event, ctx)

    @on("parks.*", retry=Retry(attempts=4, wait=wait_fixed(0.01)), on_dead="park")
    async def parks(self, event: Event[Any], ctx: Handling) -> None:
        await self.act(event, ctx)

    async def act(self, event: Event[Any], ctx: Handling) -> None:
        ctx.publish("done.it", {"of": event.seq})
        try:
            await asyncio.sleep(event.payload["ms"] / 1000)
        except asyncio.CancelledError:
            if event.payload["fate"] == "stubborn":
                await asyncio.sleep(0.2)
            raise
        fails = {"once": 1, "twice": 2, "dead": 9}.get(event.payload["fate"], 0)
        if ctx.attempt <= fails and event.seq not in self.mended:
            raise ValueError("as told")


def batches(most: int) -> st.SearchStrategy[list[Draft]]:
    """Return a strategy for a few events at least, and for `most` at most."""
    draft = st.builds(
        lambda key, topic, fate, priority, ms: Draft(topic, {"fate": fate, "ms": ms}, key=key, priority=priority),
        st.sampled_from(KEYS),
        st.sampled_from(TOPICS),
        st.sampled_from(FATES),
        st.sampled_from(list(Priority)),
        st.sampled_from(TIMES_MS),
    )
    return st.lists(draft, min_size=1, max_size=most)


class Running(msgspec.Struct, eq=False):
    """A worker and its client."""

    worker: Worker
    spine: Spine
    heart: Heart


class Heart:
    """The connection of a heartbeat, which can stop."""

    def __init__(self, spine: Spine) -> None:
        self.stopped = False
        self._connect = spine.server.blocking_client
        spine.server.blocking_client = self.connect  # type: ignore[method-assign]

    def connect(self) -> Any:
        self._client = self._connect()
        return self

    def evalsha(self, *args: Any) -> Any:
        if self.stopped:
            raise redis.exceptions.ConnectionError("the heart stands still")
        return self._client.evalsha(*args)

    def close(self) -> None:
        self._client.close()


class Ice:
    """Stands for the transport of a connection whose process is frozen: what is sent leaves, and arrives, later."""

    def __init__(self, link: Link) -> None:
        self._wire = link._wire
        self._transport = None if self._wire is None else self._wire._transport
        self._late: list[bytes] = []
        if self._wire is not None and self._transport is not None and self._wire.alive:
            self._transport.pause_reading()
            self._wire._transport = self

    def write(self, data: bytes) -> None:
        self._late.append(data)

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def melt(self) -> None:
        if self._wire is None or self._transport is None or not self._wire.alive:
            return
        self._wire._transport = self._transport
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._late))
            self._transport.resume_reading()


class History(RuleBasedStateMachine):
    """One made-up history."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        Actor.mended = set()
        self.namespace = f"h-{secrets.token_hex(6)}"
        self.published: dict[int, Event[Any]] = {}
        self.discarded: set[int] = set()
        self.died: set[int] = set()
        self.done: dict[int, list[int]] = defaultdict(list)
        self.read_to = 0
        self.workers: list[Running] = []
        self.freezes: list[asyncio.Task[None]] = []
        self.spine = Spine(self.url, namespace=self.namespace, partitions=3)
        self.play(self.begin())

    def play(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def begin(self) -> None:
        await self.spine.open()
        for _ in range(2):
            await self.start()

    async def start(self) -> None:
        spine = await Spine(self.url, namespace=self.namespace).open()
        heart = Heart(spine)
        worker = Worker(spine, Actor, lease_s=LEASE_S, concurrency=4, shutdown_timeout_s=10.0)
        await worker.start()
        self.workers.append(Running(worker, spine, heart))

    # --- what may happen ---

    @rule(drafts=batches(30))
    def publish(self, drafts: list[Draft]) -> None:
        self.play(self.send(drafts))

    async def send(self, drafts: list[Draft]) -> None:
        for event in await self.spine.publish_many(drafts):
            self.published[event.seq] = event

    @rule(ms=st.integers(1, 50))
    def work(self, ms: int) -> None:
        self.play(asyncio.sleep(ms / 1000))

    @rule(which=st.integers(0, 9), known=st.booleans())
    def kill(self, which: int, known: bool) -> None:
        self.play(self.lose(self.workers.pop(which % len(self.workers)), known))

    async def lose(self, running: Running, known: bool) -> None:
        await die(running.worker)
        with contextlib.suppress(Exception):
            await running.spine.close()
        if known:
            await self.spine.expire_worker(running.worker.id)
        await self.start()

    @rule(which=st.integers(0, 9))
    def replace(self, which: int) -> None:
        self.play(self.hand_over(self.workers.pop(which % len(self.workers))))

    async def hand_over(self, running: Running) -> None:
        await self.go(running)
        await self.start()

    async def go(self, running: Running) -> None:
        await running.worker.stop()
        await running.spine.close()

    @precondition(lambda self: len(self.freezes) < FREEZES)
    @rule(which=st.integers(0, 9), before=batches(8), after=batches(8))
    def freeze(self, which: int, before: list[Draft], after: list[Draft]) -> None:
        self.play(self.stand_still(self.workers[which % len(self.workers)], before, after))

    async def stand_still(self, running: Running, before: list[Draft], after: list[Draft]) -> None:
        """Freeze a worker for longer than its lease, at work; what happens then happens without it."""
        if running.heart.stopped:
            return
        await self.send(before)
        server = running.spine.server
        running.heart.stopped = True
        ice = [Ice(link) for link in (server.writer, server.link, server.listener)]
        self.freezes.append(asyncio.create_task(self.melt(running, ice, after)))

    async def melt(self, running: Running, ice: list[Ice], drafts: list[Draft]) -> None:
        await asyncio.sleep(1.5 * LEASE_S)
        for each in ice:
            each.melt()
        for draft in drafts:  # it may not know yet that they are not for it
            await self.send([draft])
        running.heart.stopped = False

    @precondition(lambda self: len(self.workers) > 2)
    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        """What it held goes to others, who may have held it before."""
        self.play(self.go(self.workers.pop(which % len(self.workers))))

    @precondition(lambda self: len(self.workers) < 4)
    @rule()
    def join(self) -> None:
        self.play(self.start())

    @rule(mend=st.booleans(), which=st.integers(0, 99))
    def redrive_one(self, mend: bool, which: int) -> None:
        letters = self.play(self.spine.dead_letters())
        if letters:
            letter = letters[which % len(letters)]
            self.died.add(letter.seq)
            if mend:
                Actor.mended.add(letter.seq)
            self.play(self.spine.redrive(seq=letter.seq))

    @rule(mend=st.booleans())
    def redrive_all(self, mend: bool) -> None:
        self.play(self.bring_back(mend))

    async def bring_back(self, mend: bool) -> list[DeadLetter]:
        letters = await self.spine.dead_letters()
        self.died |= {letter.seq for letter in letters}
        if mend:
            Actor.mended |= self.died
        return await self.spine.redrive()

    @rule(which=st.integers(0, 99))
    def discard(self, which: int) -> None:
        letters = self.play(self.spine.dead_letters())
        if letters:
            gone = self.play(self.spine.discard(seq=letters[which % len(letters)].seq))
            self.discarded |= {letter.seq for letter in gone}

    @rule()
    def trim(self) -> None:
        self.play(self.take_out())

    async def take_out(self) -> None:
        await self.note()
        await self.spine.trim(until=self.read_to)

    @rule()
    def cut_connections(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    # --- what must be true in the end ---

    async def note(self) -> None:
        """Write down what the handlers did, before it may be trimmed away."""
        head = await self.spine.reader.head()
        async for event in self.spine.replay(after=self.read_to, until=head, types="done.it"):
            self.done[event.payload["of"]].append(event.seq)
        self.read_to = head

    def teardown(self) -> None:
        try:
            self.play(self.end())
        finally:
            self.play(self.close())
            self.runner.close()

    async def end(self) -> None:
        await asyncio.gather(*self.freezes)
        give_up = time.monotonic() + SETTLED_S
        while await self.is_behind() or await self.spine.dead_letters():  # in this order: what fails becomes a letter
            await self.bring_back(mend=True)
            assert time.monotonic() < give_up, [lag for lag in await self.spine.lag() if lag.total]
            await asyncio.sleep(0.02)
        await self.note()
        self.check_once()
        self.check_order()
        await self.check_states()

    async def is_behind(self) -> int:
        return sum(lag.total for lag in await self.spine.lag("actor"))

    def check_once(self) -> None:
        assert {seq: len(done) for seq, done in self.done.items() if len(done) != 1} == {}
        assert set(self.done) == set(self.published) - self.discarded

    def check_order(self) -> None:
        """Within a lane the events of a key come in order, but for those that died and let others go on.

        An urgent event passes a hold: one that failed may find others before it.
        """
        lanes: dict[tuple[str, Priority], list[int]] = defaultdict(list)
        for seq in sorted(self.done, key=lambda seq: self.done[seq][0]):
            event = self.published[seq]
            went_on = seq in self.died and event.topic.startswith("goes.")
            passed = event.context.priority is Priority.URGENT and event.payload["fate"] != "fine"
            if not went_on and not passed:
                lanes[event.key, event.context.priority].append(seq)
        for lane, seqs in lanes.items():
            assert seqs == sorted(seqs), lane

    async def check_states(self) -> None:
        stored: dict[str, Any] = {}
        for partition in range(3):
            raw = await self.spine.server.command("HGETALL", self.spine.server.keys.state("actor", "1", partition))
            stored |= {raw[i].decode(): Cell.decode(Seen, raw[i + 1]).state for i in range(0, len(raw), 2)}
        for key in KEYS:
            of_key = tuple(seq for seq, event in sorted(self.published.items()) if event.key == key)
            assert not of_key or stored[key] == Seen(seqs=of_key)

    async def close(self) -> None:
        for running in self.workers:
            await self.go(running)
        await self.spine.close()


async def die(worker: Worker) -> None:
    """Let a worker of this process end as if it had been killed: nothing is finished, nothing is given back."""
    worker._leases._stop.set()
    for link in (worker._server.writer, worker._server.link, worker._server.listener):
        await link.close()
    tasks = [worker._task]
    for agency in worker._agencies.values():
        agency.stopping = True
        tasks += [*agency._background, *agency._slots._tasks, agency.outcomes._committer._task]
    cancelled = [task for task in tasks if task is not None]
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    await worker._leases.close()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer.start(tmp_path_factory.mktemp("history")) as running:
        yield running


def test_any_history_keeps_order_and_does_everything_once(server: RedisServer) -> None:
    History.url = server.url
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=(Phase.generate,),  # what depends on timing is not found again while it is made smaller
            suppress_health_check=list(HealthCheck),
        ),
    )
