"""Answers wait for a client that is busy, however many they are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis
from worker_processes import Processes

from spine import Spine
from spine.testing.waiting import wait_until

QUESTIONS = 15_000


async def test_a_client_that_is_busy_misses_no_answer(spine: Spine, processes: Processes, url: str, raw: Any) -> None:
    await processes.start("busy_agents", "Echo")
    asking = asyncio.gather(*(spine.request("echo.wanted", {"n": n}, timeout=90) for n in range(QUESTIONS)))
    await processes.reached("echo")
    stored = spine.server.keys.seq

    async def all_asked() -> bool:
        return int(await raw.get(stored)) == QUESTIONS

    await wait_until(all_asked, 30)
    await processes.let_pass("echo")
    with redis.Redis.from_url(url) as blocking:
        give_up = time.monotonic() + 60
        while int(blocking.get(stored)) < 2 * QUESTIONS and time.monotonic() < give_up:
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is to stand still, as under a handler that blocks it
    replies = await asking
    assert [reply.payload["n"] for reply in replies] == list(range(QUESTIONS))
