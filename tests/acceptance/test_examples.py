"""Each example is started as its first lines say, and asked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from spine_command import Running

from spine.testing import RedisServer

ROOT = Path(__file__).parents[2]
WISH = {"customer": "ada", "sku": 7, "quantity": 10}

Start = Callable[..., Running]


@pytest.fixture
def start(url: str, namespace: str) -> Iterator[Start]:
    """Start ``python -m …`` from the root of the checkout; all of it is ended afterwards."""
    running: list[Running] = []

    def begin(*args: str, **env: str) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            cwd=ROOT,
            env={**os.environ, "SPINE_URL": url, "SPINE_NAMESPACE": namespace, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(Running(process))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.signal(signal.SIGTERM)
        one.wait()


def said(running: Running, text: str) -> str:
    """Wait for a line of stdout that holds `text`."""
    return str(running.until(lambda: next((line for line in list(running.out) if text in line), None), repr(text)))


def web_service(start: Start, **env: str) -> tuple[Running, httpx.Client]:
    running = start("examples.web_service", PORT="0", **env)
    address = re.search(r"http://[\d.]+:\d+", running.until_said("Uvicorn running on"))
    assert address is not None
    return running, httpx.Client(base_url=address[0], timeout=30)


def test_a_forty_line_agent_has_forty_lines() -> None:
    assert len((ROOT / "examples" / "quotes.py").read_text().splitlines()) <= 40


def test_the_web_service_publishes_asks_an_agent_and_streams(start: Start) -> None:
    _, client = web_service(start)
    with client as web:
        assert web.post("/quotes", json=WISH).status_code == 503
        assert web.post("/quotes", json={"customer": "ada"}).status_code == 422
        worker = start("spine", "run", "examples.quotes:Quotes")
        somebody = {"customer": "x", "sku": 7}
        worker.until(lambda: web.post("/quotes", json=somebody).status_code == 200, "the agent's first answer")

        assert web.post("/quotes", json=WISH).json() == {"available": True, "cents": 2500, "discount": 0.0}
        ordered = web.post("/orders", json=WISH)
        assert ordered.status_code == 202
        assert web.post("/quotes", json=WISH).json() == {"available": True, "cents": 2250, "discount": 0.1}
        assert web.post("/quotes", json={"customer": "bob", "sku": 9}).json() == {"available": False}

        before = ordered.json()["seq"] - 1
        with web.stream("GET", "/events", headers={"Last-Event-ID": str(before)}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.iter_lines()
            first = [next(lines) for _ in range(3)]
            assert first[:2] == [f"id: {before + 1}", "event: order.placed"]
            assert json.loads(first[2].removeprefix("data: "))["payload"] == WISH
            web_too = httpx.Client(base_url=web.base_url, timeout=20)
            with web_too:
                late = web_too.post("/orders", json={**WISH, "customer": "eve"}).json()["seq"]
            assert any(line == f"id: {late}" for line in lines)


def next_id(lines: Iterator[str]) -> int:
    return int(next(line for line in lines if line.startswith("id: ")).removeprefix("id: "))


def test_the_web_service_lets_go_of_readers_that_left_and_ends_the_others_when_it_stops(start: Start) -> None:
    service, client = web_service(start)
    with client as web:
        for wrong in ("x", "-1"):
            assert web.get("/events", headers={"Last-Event-ID": wrong}).status_code == 422
        for _ in range(5):
            with web.stream("GET", "/events"):
                pass
        with web.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as response:
            lines = response.iter_lines()
            with httpx.Client(base_url=web.base_url, timeout=20) as other:
                assert other.post("/orders", json=WISH).json()["seq"] == next_id(lines)
            service.signal(signal.SIGINT)
            assert [line for line in lines if line.startswith("id: ")] == []  # it ends as a stream does, not cut off
    assert service.wait() == 0
    assert not [line for line in service.err if "ERROR" in line or "Traceback" in line]


def test_the_web_service_goes_on_when_the_server_is_back(start: Start, tmp_path: Path) -> None:
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        _, client = web_service(start, SPINE_URL=server.url)
        with client as web, httpx.Client(base_url=web.base_url, timeout=30) as other:
            with web.stream("GET", "/events") as response:
                lines = response.iter_lines()
                assert other.post("/orders", json=WISH).json()["seq"] == next_id(lines)
                server.kill()
                server.restart()
                assert other.post("/orders", json=WISH).json()["seq"] == next_id(lines)
            server.kill()
            refused = other.post("/orders", json=WISH)
            assert refused.status_code == 503
            assert "Nothing was stored" in refused.json()["detail"]


def test_the_bus_in_two_processes(start: Start) -> None:
    alone = start("examples.bus_emitter")
    assert alone.wait() == 1
    assert any("nobody is subscribed" in line for line in alone.err)

    subscriber = start("examples.bus_subscriber")
    said(subscriber, "listening")
    emitter = start("examples.bus_emitter")
    assert emitter.wait() == 0, emitter.err
    assert said(emitter, "messages") == "{'messages': ['Good morning!', 'I need a table for two.']}"
    assert said(emitter, "context") == "['context.requested', 'message.received', 'message.received']"
    assert said(subscriber, "table") == "Concierge in c-1: I need a table for two."
    subscriber.signal(signal.SIGINT)
    assert subscriber.wait() == 0
    assert subscriber.err == []
