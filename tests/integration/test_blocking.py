"""The client without await: the same names, from any thread, and after a fork."""

import asyncio
import gc
import inspect
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import pytest

import spine
from spine import (
    Agent,
    Catalog,
    Context,
    Draft,
    Event,
    Handling,
    InvalidName,
    ServerUnreachable,
    SpineError,
    Worker,
    blocking,
    on,
)
from spine.blocking import Spine
from spine.testing.waiting import wait_until


@pytest.fixture
def client(url: str, namespace: str) -> Iterator[Spine]:
    with Spine(url, namespace=namespace) as client:
        yield client


def seqs(events) -> list[int]:
    return [event.seq for event in events]


def test_every_method_of_the_async_client_is_here_without_await() -> None:
    public = {
        name: method for name, method in inspect.getmembers(spine.Spine, inspect.isfunction) if not name.startswith("_")
    }
    for name, method in public.items():
        mine = getattr(Spine, name)
        assert not inspect.iscoroutinefunction(mine), name
        assert not inspect.isasyncgenfunction(mine), name
        if name not in {"open", "close"}:
            assert list(inspect.signature(mine).parameters) == list(inspect.signature(method).parameters)


def test_it_says_what_it_was_made_with(url: str, namespace: str) -> None:
    catalog = Catalog()
    made = {"namespace": namespace, "name": "web", "durability": "memory", "catalog": catalog}
    for kind in (Spine, spine.Spine):
        client = kind(url, **made)
        assert {name: getattr(client, name) for name in made} == made


def test_publish_then_read(client: Spine) -> None:
    first = client.publish("order.placed", {"sku": 7}, key="c-1")
    more = client.publish_many([Draft("order.paid", {"n": n}, key="c-1") for n in range(3)])
    assert list(client.replay()) == [first, *more]
    assert client.history(key="c-1", limit=2) == [more[2], more[1]]
    assert seqs(client.replay(types="order.placed", after=0)) == [first.seq]


def test_wrong_input_raises_where_it_is_called(client: Spine) -> None:
    with pytest.raises(InvalidName):
        client.publish("Order Placed")
    with pytest.raises(InvalidName):
        list(client.replay(types="!"))
    with pytest.raises(TypeError):
        Spine("redis://127.0.0.1", colour="red")


def test_replay_of_more_than_is_read_ahead(client: Spine) -> None:
    for _ in range(3):
        client.publish_many([Draft("a.b", {"n": n}) for n in range(1_500)])
    assert seqs(client.replay()) == list(range(1, 4_501))


def test_a_reader_may_stop_half_way_and_reads_no_further(client: Spine) -> None:
    client.publish_many([Draft("a.b") for _ in range(5_000)])
    events = client.replay()
    assert next(events).seq == 1
    events.close()
    background, _ = client._session()
    background.run(_nothing_reads_ahead())


async def _nothing_reads_ahead() -> None:
    await wait_until(lambda: all(task.get_name() != "spine-blocking-read-ahead" for task in asyncio.all_tasks()), 5)


def test_tail_yields_what_other_threads_publish(client: Spine) -> None:
    with ThreadPoolExecutor(1) as pool:
        tail = client.tail(after=0)
        sent = pool.submit(lambda: [client.publish("a.b", {"n": n}).seq for n in range(10)])
        assert [next(tail).seq for _ in range(10)] == sent.result()
        tail.close()


def test_threads_share_one_client(client: Spine) -> None:
    def publish(worker: int) -> list[int]:
        return [client.publish("a.b", {"worker": worker, "n": n}, key=f"k-{worker}").seq for n in range(50)]

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(publish, range(20)))
    assert sorted(seq for result in results for seq in result) == list(range(1, 1_001))
    assert all(result == sorted(result) for result in results)


def test_a_callback_may_call_the_client(client: Spine) -> None:
    answered: Queue[Event] = Queue()
    subscription = client.subscribe(
        "question", lambda event: answered.put(client.publish("answer", event.payload, context=event.context))
    )
    question = client.publish("question", {"n": 1}, context=Context(correlation="c"))
    answer = answered.get(timeout=10)
    assert (answer.seq, answer.payload) == (question.seq + 1, {"n": 1})
    assert subscription.types == ("question",)
    subscription.stop()
    client.publish("question", {"n": 2})
    assert [event.type for event in client.history()] == ["question", "answer", "question"]


def test_a_failing_callback_is_counted_and_the_next_event_comes(client: Spine) -> None:
    heard: Queue[int] = Queue()

    def callback(event: Event) -> None:
        heard.put(event.seq)
        raise ValueError("no")

    subscription = client.subscribe("a.b", callback)
    client.publish_many([Draft("a.b"), Draft("a.b")])
    assert [heard.get(timeout=10), heard.get(timeout=10)] == [1, 2]
    subscription.stop()
    assert subscription.errors >= 1


class Echo(Agent):
    name = "echo"

    @on("echo")
    async def echo(self, event: Event, ctx: Handling) -> None:
        await ctx.stream({"half": event.payload["n"] // 2})
        await ctx.reply({"n": event.payload["n"]})


def test_requests_and_their_parts(client: Spine) -> None:
    background, async_client = client._session()
    stop = threading.Event()

    async def serve() -> None:
        async with Worker(async_client, Echo):
            ready.set()
            await asyncio.to_thread(stop.wait)

    ready = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(background.run, serve())
        assert ready.wait(10)
        request_id = secrets.token_hex(16)
        answer = client.request("echo", {"n": 7}, key="k", timeout=10, request_id=request_id)
        assert answer.payload == {"n": 7}
        assert client.read_reply(request_id, key="k") == answer
        parts = [part.payload for part in client.request_stream("echo", {"n": 8}, timeout=10)]
        assert parts == [{"half": 4}, {"n": 8}]
        stop.set()
        serving.result(10)


def test_scheduled_events_come_or_are_cancelled(client: Spine) -> None:
    tail = client.tail(after=0)
    kept = client.schedule("later", {"n": 1}, delay=0.05)
    dropped = client.schedule("later", {"n": 2}, delay=0.05)
    by_id = client.schedule("later", {"n": 3}, delay=60)
    assert dropped.cancel()
    assert client.unschedule(by_id.id)
    event = next(tail)
    assert (event.id, event.payload) == (kept.id, {"n": 1})
    assert not kept.cancel()
    tail.close()
    assert len(client.history()) == 1


def test_session(client: Spine) -> None:
    client.update_session("s-1", {"name": "Ada"})
    assert client.session("s-1") == {"name": "Ada"}


def test_it_connects_with_the_first_call_and_not_again_once_closed(url: str, namespace: str) -> None:
    client = Spine(url, namespace=namespace)
    assert client.publish("a.b").seq == 1
    client.close()
    client.close()
    with pytest.raises(SpineError, match="closed"):
        client.publish("a.b")
    with client:
        assert client.publish("a.b").seq == 2
    assert not [thread for thread in threading.enumerate() if thread.name == "spine-blocking"]


def test_closing_ends_the_wait_of_other_threads(url: str, namespace: str) -> None:
    client = Spine(url, namespace=namespace).open()
    with ThreadPoolExecutor(1) as pool:
        tail = client.tail(after=0)
        client.publish("a.b")
        assert next(tail).seq == 1
        waiting = pool.submit(next, tail, None)
        while not waiting.running():
            pass
        client.close()
        assert waiting.result(timeout=10) is None


def test_no_server_is_told_by_the_call_that_needs_it() -> None:
    client = Spine("redis://127.0.0.1:1", patience_s=0.05)
    with pytest.raises(ServerUnreachable):
        client.publish("a.b")
    assert not [thread for thread in threading.enumerate() if thread.name == "spine-blocking"]


def _in_child(client: Spine, begun: Iterator[Event], results) -> None:
    sent = [client.publish("child", {"n": n}).seq for n in range(20)]
    try:
        results.put(next(begun))
    except SpineError as error:
        results.put((client._session()[1].drafts.producer, sent, str(error)))
    client.close()


@pytest.mark.parametrize("_", range(3))
def test_a_fork_gets_a_client_of_its_own(client: Spine, _: int) -> None:
    """Both processes publish at the same time: every event is stored once, and neither reads the other's replies."""
    parent = client._session()[1].drafts.producer
    client.publish_many([Draft("a.b") for _ in range(3)])
    begun = client.replay()
    next(begun)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads, which is the point here
        child = fork.Process(target=_in_child, args=(client, begun, results))
        child.start()
    mine = [client.publish("parent", {"n": n}).seq for n in range(20)]
    producer, theirs, refused = results.get(timeout=20)
    child.join(20)
    assert child.exitcode == 0
    assert producer != parent
    assert "before a fork" in refused
    assert sorted(mine + theirs) == list(range(4, 44))
    assert seqs(client.replay(types="child")) == theirs
    assert client.publish("parent").seq == 44


def _fork_and(work: Callable[[], None]) -> int:
    """Do `work` in a child of a fork and return how that ended: 0, or 1 when it raised or hung."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads, which is the point here
        pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_published_while_the_interpreter_exits_is_stored(client: Spine, url: str) -> None:
    """Functions called at exit run in the reverse order of their registration: the client must not be closed first."""
    script = f"""
import atexit
from spine.blocking import Spine
client = Spine({url!r}, namespace={client.namespace!r})
atexit.register(lambda: client.publish("exited"))
client.publish("began")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True)
    assert [event.type for event in client.replay()] == ["began", "exited"]


def test_forks_while_all_threads_publish(client: Spine) -> None:
    """As gunicorn's workers and their children do: whatever the threads are in the middle of, the child goes on."""
    stop = threading.Event()

    def keep_publishing(thread: int) -> int:
        count = 0
        while not stop.is_set():
            client.publish("parent", {"n": count}, key=f"k-{thread}")
            count += 1
        return count

    def child(n: int) -> None:
        for _ in range(10):
            client.publish("child", {}, key=f"c-{n}")
        assert len(client.history(key=f"c-{n}")) == 10
        assert _fork_and(lambda: client.publish("grandchild", {})) == 0

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(keep_publishing, thread) for thread in range(4)]
        try:
            assert [_fork_and(lambda n=n: child(n)) for n in range(5)] == [0] * 5
        finally:
            stop.set()
    published = sum(count.result() for count in counts)
    events = list(client.replay())
    kinds = Counter(event.type for event in events)
    assert kinds == {"parent": published, "child": 50, "grandchild": 5}
    assert seqs(events) == list(range(1, len(events) + 1))


def test_in_a_web_application(url: str, namespace: str) -> None:
    """A client made with the module, requests served by threads, as in Flask and Django."""
    client = Spine(url, namespace=namespace, name="web")

    def application(environ, start_response):
        event = client.publish("page.seen", {"path": environ["PATH_INFO"]}, key="visits")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(event.seq).encode()]

    class Threaded(ThreadingMixIn, WSGIServer):
        daemon_threads = False

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with make_server("127.0.0.1", 0, application, Threaded, Quiet) as server, ThreadPoolExecutor(11) as pool:
        serving = pool.submit(server.serve_forever)
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as browser:
            answers = list(pool.map(lambda n: int(browser.get(f"/{n}").text), range(30)))
        server.shutdown()
        serving.result()
    assert sorted(answers) == list(range(1, 31))
    assert {event.payload["path"] for event in client.replay(types="page.seen")} == {f"/{n}" for n in range(30)}
    client.close()


def _finishes(work: Callable[[], object]) -> None:
    """Do `work` in a thread that may hang without keeping the test run from its end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_callback_may_close_the_client(url: str, namespace: str) -> None:
    client = Spine(url, namespace=namespace)
    closed = threading.Event()

    def close(event: Event) -> None:
        client.close()
        closed.set()

    client.subscribe("end", close)
    client.publish("end")
    assert closed.wait(10)
    with pytest.raises(SpineError, match="closed"):
        client.publish("end")


def test_a_callback_that_runs_on_may_call_the_client_that_is_being_closed(url: str, namespace: str) -> None:
    client = Spine(url, namespace=namespace)
    began, told = threading.Event(), []

    def hear(event: Event) -> None:
        began.set()
        while client.is_open:
            time.sleep(0.001)
        try:
            client.publish("heard")
        except SpineError as error:
            told.append(str(error))

    client.subscribe("a.b", hear)
    client.publish("a.b")
    assert began.wait(10)
    _finishes(client.close)
    assert told == ["the client is closed; `open` opens it again"]


async def test_a_client_that_is_dropped_ends_its_thread_and_connections_unless_it_is_subscribed(
    url: str, namespace: str
) -> None:
    def threads() -> int:
        return sum(thread.name == "spine-blocking" for thread in threading.enumerate())

    before = threads()
    heard: list[int] = []

    def use_and_drop() -> None:
        client = Spine(url, namespace=namespace)
        client.publish("a.b", key="k")
        assert next(client.tail(after=0)).type == "a.b"

    def subscribe_and_drop() -> None:
        Spine(url, namespace=namespace).subscribe("a.c", lambda event: heard.append(event.seq))

    for _ in range(3):
        await asyncio.to_thread(use_and_drop)
    gc.collect()
    await wait_until(lambda: threads() == before)
    await asyncio.to_thread(subscribe_and_drop)
    gc.collect()
    with Spine(url, namespace=namespace) as client:
        event = client.publish("a.c", key="k")
        await wait_until(lambda: heard == [event.seq])
    for left in list(blocking._clients):
        left.close()
    await wait_until(lambda: threads() == before)
