"""One attempt to handle one event: what is checked before, how it may end, and what each end commits."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from spine.agent import HandlerSpec
from spine.catalog.upcast import upcast
from spine.delivery.hand import Taken
from spine.delivery.holds import FOREVER
from spine.delivery.records import DeadLetter, Done, Outcome
from spine.errors import LeaseLost, NoHandler, ReducerFailed, ReplayGap, SpineError, StateError
from spine.events import Event, caused_by
from spine.failures import said, told, traced
from spine.handling import Handling
from spine.log.drafts import Prepared, Write
from spine.payloads import as_model
from spine.requests import FAILED, answer
from spine.sessions import SessionState
from spine.state.fold import Cell
from spine.worker.sessions import NO_SESSION

if TYPE_CHECKING:
    from spine.worker.agency import Agency

logger = logging.getLogger("spine")

Reason = Literal["expired", "cancelled", "lease", "preempted", "stop", "timeout"]


class Running(msgspec.Struct, eq=False):
    """A handler at work.

    Attributes:
        taken: its event.
        task: the task that runs it.
        began_at: when it began (monotonic seconds).
        preemptible: urgent work may take its slot.
        waits: it waits for others and has given up its slot.
        reason: why it is being cancelled.
        preempted_at: when it was told to give way (monotonic seconds).
        cancels: how often it was cancelled.
    """

    taken: Taken
    task: asyncio.Task[Any]
    began_at: float
    preemptible: bool = False
    waits: bool = False
    reason: Reason | None = None
    preempted_at: float | None = None
    cancels: int = 0

    def cancel(self, reason: Reason) -> None:
        """Cancel the handler at its next await; again, where it went on after it was told to give way."""
        if self.reason not in (None, "preempted") or reason == self.reason:
            return
        if reason == "preempted":
            self.preempted_at = time.monotonic()
        self.reason = reason
        self.cancels += 1
        self.task.cancel(reason)


class HandlerTimeout(SpineError):
    """The attempt took longer than the handler allows."""


class HandlerCancelled(SpineError):
    """The handler was cancelled, and by itself."""


class HandlerExited(SpineError):
    """The handler called ``sys.exit``."""


class WorkerDied(SpineError):
    """The worker died, again and again, while the event was at work."""


class Attempt:
    """One attempt to handle the event `taken`; `run` never raises, but for being cancelled from outside."""

    def __init__(self, agency: Agency, taken: Taken, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._agency = agency
        self.taken = taken
        self._event: Event[Any] = taken.event
        self._spec: HandlerSpec | None = None
        self._state: Callable[[], Any] | None = None
        self._folded: Cell | None = None
        self._handling: Handling | None = None
        self._started = time.monotonic()
        self._started_ms = agency.server.now_ms()

    async def run(self) -> None:
        """Handle the event and hand the result to the committer."""
        agency, taken = self._agency, self.taken
        try:
            if agency.states.kept and not await self._fold():
                return
            spec = self._spec = self._choose()
            if spec is None or (taken.suspect and self._is_deadly(spec)):
                return
            if not agency.limits.needed:
                await self._begin(spec)
            elif not await agency.limits.enter(taken, lambda: agency.may_begin(taken)):
                agency.interrupted(taken)
            else:
                try:
                    await self._begin(spec)
                finally:
                    agency.limits.leave(taken.event.seq)
        except Exception as error:
            agency.put_off(taken, error)

    async def _begin(self, spec: HandlerSpec) -> None:
        """Handle the event, unless its time is over: the partition may be lost or on its way to another by now."""
        agency, taken = self._agency, self.taken
        if taken.suspect and not taken.counted and agency.may_begin(taken):
            await agency.outcomes.count(taken)
        session = NO_SESSION if self._event.context.session_id is None else await agency.sessions.of(taken)
        if agency.may_begin(taken):
            taken.passing = taken.passing or (taken.source == "pending" and taken.order_key in agency.held)
            await self._handle(spec, session)
        else:
            agency.interrupted(taken)

    def _choose(self) -> HandlerSpec | None:
        """Return the handler; where there is none, or the event is not to be handled, that is what is committed."""
        not_handled = self._not_handled()
        if not_handled is not None:
            self._end(not_handled)
            return None
        spec = self._agency.handler(self._event.type)
        if spec is None:
            self._not_declared()
        return spec

    def _not_handled(self) -> Outcome | None:
        deadline = self._event.context.deadline
        if deadline is not None and deadline.timestamp() * 1000 <= self._agency.server.now_ms():
            return "expired"
        if self._agency.is_cancelled(self._event):
            return "cancelled"
        return None

    def _not_declared(self) -> None:
        """There is no handler: it concerns the state only, or it was sent to this very agent, which cannot help it."""
        agency, event = self._agency, self._event
        if event.topic != f"@{agency.name}" or agency.agent.reducer_of(event.type) is not None:
            self._end("folded")
            return
        self._give_up(NoHandler(f"{agency.name} has no handler for {event.type!r}", stored=True), 1)

    async def _fold(self) -> bool:
        """Fold the event, whatever becomes of its handling; false when it cannot be, and waits for a new version."""
        agency = self._agency
        try:
            cell, folded = await agency.states.cell(self._event, overtakes=agency.overtakes(self.taken))
        except (ReducerFailed, ReplayGap) as error:
            if agency.may_begin(self.taken):
                self._park(error)
            else:
                agency.interrupted(self.taken)
            return False
        self._folded = cell if folded else None
        self._state = cell.copier()
        return True

    def _state_writes(self) -> tuple[Write, ...]:
        return () if self._folded is None else self._agency.states.writes(self._event.key, self._folded)

    async def _handle(self, spec: HandlerSpec, session: SessionState) -> None:
        agency, event = self._agency, self._event
        handling = Handling(agency, self.taken, event, self._state, session, refresh=spec.stale != "handle")
        self._handling = handling
        if spec.stale == "drop" and handling.moved_on:
            self._end("stale")
            return
        running = agency.start(self.taken, spec, self._task)
        timers: list[asyncio.TimerHandle] = []
        try:
            event = handling.event = self._read_by(spec)
            timers = self._timers(spec, running)
            if spec.is_async:
                await agency.call(spec, event, handling)
            else:
                await self._call_in_thread(spec, event, handling)
            running.preemptible = False  # it has done its work
            if handling.addressees:
                await handling.check_addressees()
        except asyncio.CancelledError:
            if running.reason is None and not self._task.cancelling():
                self._fail(HandlerCancelled("the handler let a cancellation of its own making out"))
            elif running.reason is None:
                self._cancelled_from_outside()
                raise
            elif running.reason == "stop":
                agency.interrupted(self.taken)
                raise
            else:
                self._cut_off(running.reason)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except SystemExit as error:
            self._fail(HandlerExited(f"the handler called sys.exit({error.code!r})"))
        except BaseException as error:
            if running.reason is None:
                self._fail(error)
            else:  # it made an error of its own of the cancellation
                self._cut_off(running.reason)
        else:
            self._end("done", handling)
        finally:
            for timer in timers:
                timer.cancel()
            handling.end()
            agency.stopped(running)
            for _ in range(running.cancels if running.reason != "stop" else 0):
                self._task.uncancel()

    def _read_by(self, spec: HandlerSpec) -> Event[Any]:
        """Return the event as the handler asks for it; what it does to that is no part of the state."""
        event = self._event if self._state is None else self.taken.as_stored()
        event = upcast(event, spec.model)
        return event if spec.model is None else event.with_payload(as_model(spec.model, event.payload))

    async def _call_in_thread(self, spec: HandlerSpec, event: Event[Any], handling: Handling) -> None:
        """A plain ``def`` blocks a thread, never the loop. A thread cannot be cancelled: it runs on, to no effect."""
        context = contextvars.copy_context()

        def call() -> Any:
            try:
                return context.run(self._agency.call, spec, event, handling)
            except StopIteration as error:  # a future would never end with it
                raise RuntimeError("the handler raised StopIteration") from error

        result = await asyncio.get_running_loop().run_in_executor(self._agency.threads, call)
        if inspect.isawaitable(result):  # an async def in a decorator that is a plain one
            await result

    def _timers(self, spec: HandlerSpec, running: Running) -> list[asyncio.TimerHandle]:
        deadline = self._event.context.deadline
        if deadline is None and spec.timeout_s is None:
            return []
        loop = asyncio.get_running_loop()
        timers = []
        if deadline is not None:
            left = max(0.0, deadline.timestamp() - self._agency.server.now_ms() / 1000)
            timers.append(loop.call_later(left, running.cancel, "expired"))
        if spec.timeout_s is not None:
            timers.append(loop.call_later(spec.timeout_s, running.cancel, "timeout"))
        return timers

    def _is_deadly(self, spec: HandlerSpec) -> bool:
        """Give up an event at which workers died too often.

        A first run of it goes side by side with others, so a death then proves little: it takes a second one, alone.
        """
        deaths = self.taken.deaths
        if deaths < max(spec.retry.kills, 2):
            return False
        self._give_up(WorkerDied(f"its worker died {deaths} times while it was at work"), deaths)
        return True

    def _cut_off(self, reason: Reason) -> None:
        """The handler was cancelled for a reason that is not its own failure."""
        if reason in ("expired", "cancelled"):
            self._end("expired" if reason == "expired" else "cancelled")
        elif reason == "timeout":
            assert self._spec is not None
            self._fail(HandlerTimeout(f"the handler did not finish within {self._spec.timeout_s:g} s"))
        else:
            if reason == "preempted":
                self.taken.preempted += 1
                self.taken.preempted_at = self.taken.preempted_at or time.monotonic()
            self._agency.interrupted(self.taken)

    def _cancelled_from_outside(self) -> None:
        """The task was cancelled by none of ours: the loop is ending, or the handler cancelled itself.

        Then the event is there a second time.
        """
        if self.taken.cut_off:
            self._fail(HandlerCancelled("the handler cancelled the task that it runs in"))
        else:
            self.taken.cut_off = True
            self._agency.put_off(self.taken, HandlerCancelled("its handler was cancelled from outside"))

    def _fail(self, error: BaseException) -> None:
        """A handler raised: try again later, the key held meanwhile, or give the event up."""
        taken, agency = self.taken, self._agency
        assert self._spec is not None
        if isinstance(error, LeaseLost):
            agency.interrupted(taken)
            return
        delay = self._spec.retry.delay_s(taken.attempt, error)
        if delay is None:
            self._give_up(error, taken.attempt)
            return
        logger.warning(
            "%s failed on event %d (%s), attempt %d, again in %.2g s: %s",
            agency.name, taken.event.seq, taken.event.type, taken.attempt, delay, told(error),
        )  # fmt: skip
        due_ms = agency.server.now_ms() + round(delay * 1000)
        if taken.passing:
            agency.outcomes.hold_back(taken, due_ms, self._state_writes())
            return
        hold = agency.outcomes.next_hold(taken)
        hold.attempts[taken.event.seq] = taken.attempt
        hold.until_ms = due_ms
        hold.reason = "retry"
        hold.error = told(error)
        agency.outcomes.hold(taken, hold, self._state_writes())

    def _park(self, error: StateError) -> None:
        """The state cannot be had, as a reducer raised or events are gone: the key waits until a new version can."""
        taken, agency = self.taken, self._agency
        logger.error("%s; the key is parked until a new version of %s", error, agency.name)
        hold = agency.outcomes.next_hold(taken)
        known = agency.held.get(taken.order_key)
        if known is not None and known.hold.reason == "parked":  # no new version ends that
            hold.reason, hold.by = "parked", known.hold.by
        else:
            hold.reason, hold.version = "reducer", agency.version
        hold.until_ms, hold.error = FOREVER, said(error)
        agency.outcomes.hold(taken, hold, ())

    def _give_up(self, error: BaseException, attempts: int) -> None:
        """Put the event among the dead letters."""
        taken, agency, event = self.taken, self._agency, self._event
        parks = self._spec is not None and self._spec.on_dead == "park"
        letter = DeadLetter(
            agent=agency.name,
            seq=event.seq,
            type=event.type,
            topic=event.topic,
            key=event.key,
            correlation=event.context.correlation,
            partition=taken.partition,
            stream=taken.number,
            error_type=type(error).__name__,
            error=said(error),
            traceback=traced(error),
            attempts=attempts,
            worker=agency.worker,
            ts_ms=agency.server.now_ms(),
            parked=parks,
            order_key=taken.order_key,
        )
        logger.error("%s gave up event %d (%s): %s", agency.name, event.seq, event.type, told(error))
        events, writes = self._failed_answer(error)
        also = () if self._handling is None else self._handling.if_given_up
        self._submit("dead", events, (letter.write(agency.server.keys), *also, *writes), parks=parks)

    def _failed_answer(self, error: BaseException) -> tuple[list[Prepared], tuple[Write, ...]]:
        if self._event.context.reply_to is None:
            return [], ()
        payload = {"error_type": type(error).__name__, "error": said(error), "request": self._event.seq}
        context = caused_by(self.taken.as_stored(), self._agency.name)
        prepared, write = answer(self._agency.drafts, self._event, FAILED, payload, context, self._agency.name)
        return [prepared], (write,)

    def _end(self, outcome: Outcome, handling: Handling | None = None) -> None:
        events = handling.events if handling is not None else []
        writes: tuple[Write, ...] = (*handling.writes, *handling.drop_steps()) if handling is not None else ()
        self._submit(outcome, events, writes)

    def _submit(
        self, outcome: Outcome, events: list[Prepared], writes: tuple[Write, ...], *, parks: bool = False
    ) -> None:
        agency, taken = self._agency, self.taken
        done = Done(
            agency.worker,
            agency.version,
            self._started_ms,
            (time.monotonic() - self._started) * 1000,
            taken.attempt,
            outcome,
        ).kept(agency.server.keys, agency.name, taken.partition, taken.event.seq)
        agency.outcomes.commit(taken, events, (*writes, *self._state_writes()), done, parks=parks)
