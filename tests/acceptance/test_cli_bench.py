"""`spine bench`: figures of the user's own server, and nothing left behind."""

from __future__ import annotations

import signal

import redis
from spine_command import Cli


def test_it_measures_the_server_and_leaves_nothing(cli: Cli, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        before = set(client.scan_iter("spine:{bench-*", count=1000))
        done = cli("bench", "--events", "300", "--in-flight", "16", "-o", "ndjson")
        assert done.code == 0, done.err
        assert set(client.scan_iter("spine:{bench-*", count=1000)) == before
    rows = {row["what"]: row for row in done.rows}
    assert list(rows) == [
        "publish, 16 in flight",
        "publish, one at a time",
        "publish_many, 256 a call",
        "deliver a backlog, one worker",
        "publish to handler, 200 a second",
        "request, one at a time",
        "request, 16 in flight",
        "replay",
    ]
    for what, row in rows.items():
        assert row["count"] > 0
        if what != "publish to handler, 200 a second":
            assert row["per_s"] > 0
        if what not in ("deliver a backlog, one worker", "replay"):
            assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]


def test_a_server_that_cannot_promise_the_durability_is_told_of(cli: Cli) -> None:
    done = cli("bench", "--events", "300", "--durability", "replicas")
    assert done.code == 1
    assert "replica" in done.err


def test_a_signal_to_end_leaves_nothing_either(cli: Cli, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        before = set(client.scan_iter("spine:{bench-*", count=1000))
        running = cli.start("bench", "--events", "1000000")
        running.until(lambda: set(client.scan_iter("spine:{bench-*", count=1000)) - before)
        running.signal(signal.SIGTERM)
        assert running.wait() == -signal.SIGTERM
        assert set(client.scan_iter("spine:{bench-*", count=1000)) == before
