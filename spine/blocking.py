"""`Spine` without await, for scripts, Flask, Django and whatever else is not async.

    with Spine("redis://localhost") as spine:
        event = spine.publish("order.placed", {"sku": 7})
        for event in spine.replay(types="order.*"):
            ...

Every method of `spine.Spine` is here under its own name, with the same arguments. One client serves all threads of a
process: what they publish at the same time leaves together. It connects with the first call, and in a child of a fork
with the child's first call, as a client of its own (nothing that the parent has sent is taken for the child's).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from spine.client import Spine as AsyncSpine
from spine.client.reading import Moment, Types
from spine.errors import SpineError, Unavailable
from spine.events import Event
from spine.log.subscriptions import Subscription as AsyncSubscription
from spine.timers import Scheduled as AsyncScheduled

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

READ_AHEAD = 1_000
CALLBACKS = 64

_clients: weakref.WeakSet[Spine] = weakref.WeakSet()
_left_behind: list[Any] = []
_here = threading.local()


class _Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="spine-blocking", daemon=True)
        self._thread.start()
        self._callbacks = ThreadPoolExecutor(CALLBACKS, "spine-callback", initializer=self._enter_callbacks)

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _enter_callbacks(self) -> None:
        _here.calls_back_for = self

    async def call_back(self, callback: Callable[[T], R], argument: T) -> R:
        """Return what `callback` returns, called in a thread of its own."""
        return await self._loop.run_in_executor(self._callbacks, copy_context().run, callback, argument)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; it runs in the background thread."""
        try:
            self.check_alive()
        except SpineError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable("the client was closed meanwhile", stored=None) from None
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread ends the work as well
            raise

    def check_alive(self) -> None:
        """Raise `SpineError` when it was closed, in the child of a fork, and in its own thread."""
        if self._pid != os.getpid() or self._loop.is_closed() or threading.current_thread() is self._thread:
            raise SpineError("what this belongs to was closed, or is of the process before a fork: begin anew")

    def soon(self, call: Callable[[], object]) -> None:
        """Have the thread call `call`, and do not wait for it; safe in a finalizer."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def stop(self) -> None:
        """Cancel what still runs and end the thread."""
        self.run(self._wind_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._callbacks.shutdown(wait=getattr(_here, "calls_back_for", None) is not self)  # a callback may close it

    def abandon(self, client: AsyncSpine) -> None:
        """Have `client` closed and the thread end, and do not wait for it; for a finalizer, in whichever thread."""
        with contextlib.suppress(RuntimeError):  # it ends at this very moment
            self.soon(lambda: _left_behind.append(self._loop.create_task(self._close_and_end(client))))

    async def _close_and_end(self, client: AsyncSpine) -> None:
        try:
            await client.close()
        finally:
            await self._wind_up()
            self._callbacks.shutdown(wait=False)
            self._loop.stop()
            _left_behind.remove(asyncio.current_task())

    async def _wind_up(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


class _Pump(Generic[T]):
    """Reads ahead of a generator in another thread, `READ_AHEAD` items at most, so that a hop brings many."""

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue(READ_AHEAD)
        self._task = asyncio.create_task(self._fill(source), name="spine-blocking-read-ahead")

    async def take(self) -> list[T | _End]:
        """Return all that is there, at least one item."""
        items = [await self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get_nowait())
        return items

    def stop(self) -> None:
        """Read no further."""
        self._task.cancel()

    async def _fill(self, source: AsyncGenerator[T, None]) -> None:
        try:
            async for item in source:
                await self._queue.put(item)
        except Exception as error:
            await self._queue.put(_End(error))
        else:
            await self._queue.put(_End(None))
        finally:
            await source.aclose()


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Subscription:
    """A running subscription; `stop` ends it."""

    def __init__(self, background: _Background, subscription: AsyncSubscription) -> None:
        self._background = background
        self._subscription = subscription

    @property
    def types(self) -> tuple[str, ...]:
        """The types or patterns subscribed to."""
        return self._subscription.types

    @property
    def position(self) -> int:
        """Seq of the last event handed to the callback."""
        return self._subscription.position

    @property
    def errors(self) -> int:
        """How often the callback raised."""
        return self._subscription.errors

    @property
    def lag(self) -> int:
        """Numbers between the newest event known to this client and the last one handed to the callback."""
        return self._subscription.lag

    def stop(self) -> None:
        """End the subscription; no callback starts after this."""
        self._background.run(self._subscription.stop())


class Scheduled:
    """An event that is to be published later.

    Attributes:
        id: its id in the timetable, and the id of the event.
        due: when, by the server's clock. The seq comes when it is due.
    """

    def __init__(self, background: _Background, scheduled: AsyncScheduled) -> None:
        self.id = scheduled.id
        self.due = scheduled.due
        self._background = background
        self._scheduled = scheduled

    def cancel(self) -> bool:
        """Take it out of the timetable; return whether it was still there."""
        return self._background.run(self._scheduled.cancel())


def _blocking(
    method: Callable[Concatenate[AsyncSpine, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Spine, P], T]:
    """Return `method` of the async client as a method that waits."""

    def call(self: Spine, /, *args: P.args, **kwargs: P.kwargs) -> T:
        background, client = self._session()
        return background.run(method(client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def _wrapping(
    method: Callable[Concatenate[AsyncSpine, P], Coroutine[Any, Any, T]], wrap: Callable[[_Background, T], R]
) -> Callable[Concatenate[Spine, P], R]:
    """Return the same, for a result that has methods to await itself: `wrap` gives it those that wait."""

    def call(self: Spine, /, *args: P.args, **kwargs: P.kwargs) -> R:
        background, client = self._session()
        return wrap(background, background.run(method(client, *args, **kwargs)))

    functools.update_wrapper(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[AsyncSpine, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Spine, P], Generator[T, None, None]]:
    """Return `method` of the async client as a method that returns a plain generator."""

    def call(self: Spine, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        background, client = self._session()

        async def begin() -> _Pump[T]:
            return _Pump(method(client, *args, **kwargs))

        pump = background.run(begin())
        try:
            while True:
                for item in background.run(pump.take()):
                    if not isinstance(item, _End):
                        background.check_alive()  # what was read ahead is the parent's too
                        yield item
                    elif item.error is not None:
                        raise item.error
                    else:
                        return
        finally:
            background.soon(pump.stop)

    functools.update_wrapper(call, method)
    return call


class Spine:
    """A client of one namespace, for code without await; safe across threads and after fork.

    Takes what `spine.Spine` takes. Usable at once: it connects with the first call. ``with`` closes it; one that is
    dropped closes by itself, unless it has subscriptions, and so does one that lives as long as the process.
    """

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._new = functools.partial(AsyncSpine, url, **options)
        described = self._new()  # wrong arguments are told here, not with the first call
        self.namespace = described.namespace
        self.name = described.name
        self.durability = described.durability
        self.catalog = described.catalog
        self._opening = threading.Lock()
        self._opened: tuple[_Background, AsyncSpine] | None = None
        self._closed = False
        self._dropped: weakref.finalize[..., Spine] | None = None
        _clients.add(self)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Connect now instead of with the first call; a closed client is opened again."""
        self._closed = False
        self._session()
        return self

    def close(self) -> None:
        """Finish what is being published and disconnect. Calls that wait in other threads raise."""
        with self._opening:
            opened, self._opened = self._opened, None
            self._closed = True
            self._not_dropped()
        if opened is not None:  # no more under the lock: a callback that is waited for may call this client
            background, client = opened
            try:
                background.run(client.close())
            finally:
                background.stop()

    @property
    def is_open(self) -> bool:
        """Whether it is connected in this process."""
        return self._opened is not None

    def _session(self) -> tuple[_Background, AsyncSpine]:
        opened = self._opened
        if opened is not None:
            return opened
        with self._opening:
            if self._opened is None:
                if self._closed:
                    raise SpineError("the client is closed; `open` opens it again")
                background, client = _Background(), self._new()
                try:
                    background.run(client.open())
                except BaseException:
                    background.stop()
                    raise
                self._opened = background, client
                self._dropped = weakref.finalize(self, background.abandon, client)
                self._dropped.atexit = False
            return self._opened

    def _not_dropped(self) -> None:
        if self._dropped is not None:
            self._dropped.detach()

    def _forget(self) -> None:
        """In the child of a fork: let go of the parent's thread and connections without touching them."""
        if self._opened is not None:
            _left_behind.append(self._opened)
            self._not_dropped()
        self._opening = threading.Lock()
        self._opened = None

    publish = _blocking(AsyncSpine.publish)
    publish_many = _blocking(AsyncSpine.publish_many)
    schedule = _wrapping(AsyncSpine.schedule, Scheduled)
    unschedule = _blocking(AsyncSpine.unschedule)
    request = _blocking(AsyncSpine.request)
    request_draft = _blocking(AsyncSpine.request_draft)
    fan_out = _blocking(AsyncSpine.fan_out)
    fan_out_stream = _iterating(AsyncSpine.fan_out_stream)
    gather = _blocking(AsyncSpine.gather)
    request_stream = _iterating(AsyncSpine.request_stream)
    read_reply = _blocking(AsyncSpine.read_reply)
    session = _blocking(AsyncSpine.session)
    update_session = _blocking(AsyncSpine.update_session)
    workers = _blocking(AsyncSpine.workers)
    agents = _blocking(AsyncSpine.agents)
    lag = _blocking(AsyncSpine.lag)
    held_keys = _blocking(AsyncSpine.held_keys)
    pause = _blocking(AsyncSpine.pause)
    resume = _blocking(AsyncSpine.resume)
    cancel = _blocking(AsyncSpine.cancel)
    remove_agent = _blocking(AsyncSpine.remove_agent)
    expire_worker = _blocking(AsyncSpine.expire_worker)
    dead_letters = _blocking(AsyncSpine.dead_letters)
    redrive = _blocking(AsyncSpine.redrive)
    discard = _blocking(AsyncSpine.discard)
    replay = _iterating(AsyncSpine.replay)
    tail = _iterating(AsyncSpine.tail)
    history = _blocking(AsyncSpine.history)
    head = _blocking(AsyncSpine.head)
    seq_at = _blocking(AsyncSpine.seq_at)
    reduce = _blocking(AsyncSpine.reduce)
    steps = _iterating(AsyncSpine.steps)
    snapshot = _blocking(AsyncSpine.snapshot)
    snapshots = _blocking(AsyncSpine.snapshots)
    remove_snapshots = _blocking(AsyncSpine.remove_snapshots)
    retention = _blocking(AsyncSpine.retention)
    trim = _blocking(AsyncSpine.trim)
    remove_projection = _blocking(AsyncSpine.remove_projection)
    trace = _blocking(AsyncSpine.trace)
    export = _iterating(AsyncSpine.export)
    fork = _blocking(AsyncSpine.fork)

    def subscribe(
        self, types: Types, callback: Callable[[Event[Any]], None], *, after: Moment | None = None
    ) -> Subscription:
        """Call `callback` with every event of `types` from now on, in seq order, in a thread of its own.

        It may call this client. One that fails is reported in the log and hurts no other.
        """
        background, client = self._session()

        async def in_a_thread(event: Event[Any], of: Spine = self) -> None:  # as long as it runs, nobody dropped it
            await background.call_back(callback, event)

        return Subscription(background, background.run(client.subscribe(types, in_a_thread, after=after)))


@atexit.register
def _at_exit() -> None:
    """Runs after whatever else was to be done at exit since this was imported: that may use a client still."""
    for client in [client for client in _clients if client.is_open]:
        with contextlib.suppress(SpineError, RuntimeError):  # by now the interpreter refuses new threads
            client.close()


def _after_fork() -> None:
    for client in list(_clients):
        client._forget()


os.register_at_fork(after_in_child=_after_fork)
