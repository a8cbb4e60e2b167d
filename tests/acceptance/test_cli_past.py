"""The past from a shell: states, what changed them, forks, exports and imports, trimming and snapshots."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from spine_command import Cli, command

ACCOUNTS = "past_agents:Accounts"


@pytest.fixture
def bank(cli: Cli, tmp_path: Path) -> Cli:
    """Ten moves of two keys, odd seqs of k1 and even ones of k0; the agents are at hand."""
    shutil.copy(Path(__file__).parent / "past_agents.py", tmp_path)
    types = ("money.in", "money.in", "money.out")
    lines = [{"type": types[n % 3], "key": f"k{n % 2}", "payload": {"amount": n}} for n in range(1, 11)]
    assert cli("publish", "-", stdin="".join(json.dumps(line) + "\n" for line in lines)).code == 0
    return cli


@pytest.fixture
def other(cli: Cli, namespace: str, url: str) -> Iterator[str]:
    """Another namespace, deleted after the test."""
    name = f"{namespace}-other"
    yield name
    with redis.Redis.from_url(url) as client:
        found = list(client.scan_iter(f"spine:{{{name}*}}:*", count=1000))
        if found:
            client.unlink(*found)


def seqs(cli: Cli, *args: str) -> list[int]:
    return [event["seq"] for event in cli("replay", *args).rows]


def test_the_state_of_a_key_at_a_point(bank: Cli) -> None:
    (shown,) = bank("replay", ACCOUNTS, "--key", "k1", "--at", "4").rows
    assert shown == {
        "name": "accounts",
        "version": "1",
        "key": "k1",
        "at": 4,
        "events": 2,
        "state": {"total": 4, "moves": {"money.in": 2}, "last": [3, 1]},
    }
    (now,) = bank("replay", ACCOUNTS, "--key", "k1").rows
    assert (now["at"], now["state"]["total"]) == (10, 25)
    assert json.loads(bank("replay", ACCOUNTS, "--key", "k1", "--at", "2020-01-01", "-o", "json").out)[0]["events"] == 0
    table = bank("replay", ACCOUNTS, "--key", "k1", "--at", "4", "-o", "table")
    assert json.loads(table.out)["total"] == 4
    assert "accounts, version 1, key k1, at seq 4: 2 events" in table.err
    assert bank("replay", "past_agents:Bank", "--at", "-0s").rows[0]["state"] == {"events": 10}


def test_what_changed_by_path_and_by_which_event(bank: Cli) -> None:
    rows = bank("replay", ACCOUNTS, "--key", "k1", "--diff", "3", "9").rows
    out = {"seq": 5, "type": "money.out"}
    ins = [{"seq": 7, "type": "money.in"}, {"seq": 9, "type": "money.in"}]
    assert rows == [
        {"path": "total", "before": 4, "after": 25, "by": [out, *ins]},
        {"path": 'moves["money.in"]', "before": 2, "after": 4, "by": ins},
        {"path": 'moves["money.out"]', "after": 1, "by": [out]},
        {"path": "last[0]", "before": 3, "after": 9, "by": [out, *ins]},
        {"path": "last[1]", "before": 1, "after": 7, "by": [out, *ins]},
    ]
    table = bank("replay", ACCOUNTS, "--key", "k1", "--diff", "4", "6", "-o", "table").out
    assert "5 money.out" in table
    nothing = bank("replay", ACCOUNTS, "--key", "k1", "--diff", "5", "6", "-o", "table")
    assert (nothing.code, nothing.out) == (0, "")
    assert "nothing changed in 0 events" in nothing.err


def test_what_each_event_of_a_type_changed(bank: Cli) -> None:
    rows = bank("replay", ACCOUNTS, "--key", "k1", "--watch", "money.o*").rows
    assert [row["seq"] for row in rows] == [5]
    assert rows[0]["changes"][0] == {"path": "total", "before": 4, "after": 9}
    table = bank("replay", ACCOUNTS, "--key", "k1", "--watch", "money.in", "--after", "3", "-o", "table").out
    assert [line.split()[0] for line in table.splitlines()][:2] == ["7", "total:"]
    assert "total: 9 → 16" in table
    assert "folded no event of x.y" in bank("replay", ACCOUNTS, "--key", "k1", "--watch", "x.y").err


def test_a_reducer_that_is_not_pure_is_found(bank: Cli) -> None:
    pure = bank("replay", ACCOUNTS, "--verify")
    assert (pure.code, pure.rows) == (0, [])
    assert "pure: 2 keys, 10 events folded twice" in pure.err
    found = bank("replay", "past_agents:Gambler", "--verify")
    assert found.code == 5
    assert {row["key"] for row in found.rows} == {"k0", "k1"}
    assert "gives another state" in found.rows[0]["what"]
    assert "NOT pure" in found.err
    assert bank("replay", "past_agents:Gambler", "--verify", "--key", "k9").code == 0
    unordered = bank("replay", "past_agents:Unordered", "--verify")
    assert (unordered.code, [row["seq"] for row in unordered.rows if row["key"] == "k0"]) == (5, [4])
    assert "gives another state in another process" in unordered.rows[0]["what"]


def test_what_cannot_be_shown_is_said(bank: Cli) -> None:
    for args, code, says in (
        ((ACCOUNTS,), 2, "say whose with --key"),
        (("past_agents:Bank", "--key", "k1"), 2, "leave key out"),
        (("past_agents:Idle", "--key", "k1"), 2, "no reducers"),
        (("past_agents:Nobody", "--key", "k1"), 3, "agents there: Accounts, Bank"),
        ((ACCOUNTS, "--key", "k1", "--diff", "9", "3"), 2, "goes forward"),
        ((ACCOUNTS, "--key", "k1", "--diff", "3", "9", "--verify"), 2, "exclude each other"),
        ((ACCOUNTS, "--key", "k1", "-t", "a.b"), 2, "--watch"),
        (("--verify",), 2, "needs MODULE:AGENT"),
        (("--diff", "1", "2"), 2, "needs MODULE:AGENT"),
    ):
        done = bank("replay", *args)
        assert (done.code, done.out) == (code, ""), args
        assert says in done.err, args


def test_a_replay_goes_on_where_it_stopped(bank: Cli, tmp_path: Path) -> None:
    assert seqs(bank, "--resume", "place", "--until", "4") == [1, 2, 3, 4]
    assert seqs(bank, "--resume", "place") == [5, 6, 7, 8, 9, 10]
    assert seqs(bank, "--resume", "place") == []
    bank("publish", "money.in", '{"amount": 1}', "--key", "k1")
    assert seqs(bank, "--resume", "place") == [11]
    refused = bank("replay", "--resume", "place", "--key", "k1")
    assert (refused.code, refused.out) == (2, "")
    assert "selected other events" in refused.err
    (tmp_path / "place").write_text("rubbish")
    assert "no place of a replay" in bank("replay", "--resume", "place").err
    nowhere = bank("replay", "--resume", "nowhere/place")
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "cannot be written" in nowhere.err


def test_a_replay_that_is_interrupted_and_resumed_writes_each_event_once(cli: Cli, tmp_path: Path) -> None:
    cli("publish", "a.b", "-", stdin="".join(json.dumps({"n": n, "text": "x" * 500}) + "\n" for n in range(20_000)))
    out = tmp_path / "out.ndjson"
    with out.open("wb") as file:
        process = subprocess.Popen(
            command("replay", "--resume", "place"), stdout=file, stderr=subprocess.PIPE, env=cli.env, cwd=tmp_path
        )
        try:
            while out.stat().st_size < 1_000_000:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130
    first = len(out.read_bytes().splitlines())
    assert 0 < first < 20_000
    with out.open("ab") as file:
        subprocess.run(
            command("replay", "--resume", "place"), stdout=file, env=cli.env, cwd=tmp_path, check=True, timeout=60
        )
    assert [json.loads(line)["seq"] for line in out.read_bytes().splitlines()] == list(range(1, 20_001))


def test_progress_with_rate_and_time_left_is_on_a_terminal_only(cli: Cli) -> None:
    cli("publish", "a.b", "-", stdin="".join(json.dumps({"n": n}) + "\n" for n in range(20_000)))
    assert cli("replay").err == ""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("replay"), stdout=subprocess.DEVNULL, stderr=theirs, env={**cli.env, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(30) == 0
    assert b"replaying" in shown
    assert b"/s" in shown
    assert b"0:00:0" in shown


def test_a_fork_goes_on_apart(bank: Cli, other: str) -> None:
    (row,) = bank("fork", other, "--at", "6").rows
    assert row == {"namespace": other, "at": 6, "events": 6, "open": {}, "sessions": []}
    assert seqs(bank, "--namespace", other) == [1, 2, 3, 4, 5, 6]
    bank("publish", "money.in", '{"amount": 100}', "--key", "k1", "--namespace", other)
    (there,) = bank("replay", ACCOUNTS, "--key", "k1", "--namespace", other).rows
    (here,) = bank("replay", ACCOUNTS, "--key", "k1").rows
    assert (there["state"]["total"], here["state"]["total"]) == (109, 25)
    again = bank("fork", other, "--at", "6")
    assert again.code == 1
    assert "exists already" in again.err


def test_an_export_becomes_an_equal_log(bank: Cli, other: str, tmp_path: Path) -> None:
    exported = bank("export")
    assert (exported.code, len(exported.out.splitlines())) == (0, 12)
    assert "exported 12 lines" in exported.err
    (row,) = bank("import", "--namespace", other, "--partitions", "3", stdin=exported.out).rows
    assert row == {"namespace": other, "events": 10, "last_seq": 10, "present": 0}
    assert bank("replay", "--namespace", other).out == bank("replay").out
    again = bank("import", "--namespace", other, stdin=exported.out)
    assert (again.code, again.out) == (1, "")
    assert "is not empty" in again.err
    assert bank("export", "part.ndjson", "--until", "3").code == 0
    assert len((tmp_path / "part.ndjson").read_text().splitlines()) == 5
    cut = bank("import", "--namespace", f"{other}-2", stdin="".join(exported.out.splitlines(keepends=True)[:-3]))
    assert (cut.code, cut.out) == (1, "")
    assert "breaks off after 8 events" in cut.err
    assert bank("import", "--namespace", f"{other}-2", stdin=exported.out).rows[0]["events"] == 10
    bad = bank("import", "nowhere.ndjson", "--namespace", f"{other}-3")
    assert (bad.code, bad.err) == (1, "error: nowhere.ndjson: No such file or directory\n")


def test_an_import_that_is_broken_off_says_what_is_left_and_how_to_go_on(bank: Cli, other: str) -> None:
    lines = bank("export").out.splitlines(keepends=True)
    environment = {**bank.env, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command("import", "--namespace", other),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.writelines(lines[:3])
        process.stdin.flush()
        with redis.Redis.from_url(bank.env["SPINE_URL"]) as client:
            while client.hget(f"spine:{{{other}}}:meta", "format") != b"incomplete":
                time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "until the same command is run again" in process.stderr.read()
    assert bank("import", "--namespace", other, stdin="".join(lines)).rows[0]["events"] == 10


def serve(bank: Cli, condition: Any) -> None:
    """Run the agent until `condition` holds."""
    running = bank.start("run", ACCOUNTS)
    running.until(condition)
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def nothing_left(bank: Cli) -> bool:
    rows = bank("lag").rows
    return bool(rows) and all(row["lag"] == 0 for row in rows)


def test_a_trim_takes_what_nobody_needs(bank: Cli) -> None:
    serve(bank, lambda: nothing_left(bank))
    (planned,) = bank("trim", "--until", "6", "--dry-run").rows
    assert (planned["events"], planned["blockers"], planned["dry_run"]) == (6, [], True)
    assert len(seqs(bank)) == 10
    done = bank("trim", ACCOUNTS, "--until", "6", "-o", "table")
    assert done.code == 0
    assert "6 events went" in done.err
    gone = bank("replay")
    assert gone.code == 1
    assert "were trimmed away" in gone.err
    assert seqs(bank, "--after", "6") == [7, 8, 9, 10]
    assert bank("replay", ACCOUNTS, "--key", "k1", "--at", "7").rows[0]["state"]["total"] == 16
    (kept,) = bank("trim", "--keep", "2").rows
    assert kept["events"] == 2
    assert seqs(bank, "--after", "8") == [9, 10]
    checks = {row["name"]: row for row in bank("doctor").rows}
    assert checks["retention"]["detail"] == "the log keeps 2 events"
    assert "everything from now on" in bank("trim", "--keep", "forever").err
    assert "grows for ever" in {row["name"]: row for row in bank("doctor").rows}["retention"]["remedy"]


def test_a_trim_says_who_holds_it_up(bank: Cli) -> None:
    bank("publish", "money.in", '{"amount": 0, "fail": 1}', "--key", "k1")
    serve(bank, lambda: bank("dlq", "list").rows)
    held = bank("trim", "--until", "11", "-o", "table")
    assert held.code == 0
    assert "1 hold up the rest:" in held.err
    assert "accounts: a dead letter" in held.err
    (forced,) = bank("trim", "--until", "11", "--force").rows
    assert (len(forced["blockers"]), forced["forced"]) == (1, True)
    unbounded = bank("trim")
    assert (unbounded.code, unbounded.out) == (2, "")
    assert "keeps everything" in unbounded.err
    assert bank("trim", "--keep", "soon").code == 2


def test_snapshots_are_listed_kept_and_removed(bank: Cli) -> None:
    assert bank("snapshots", "list", "accounts").code == 2
    serve(bank, lambda: nothing_left(bank))
    listed = bank("snapshots", "list", "accounts").rows
    assert {(row["key"], row["events"]) for row in listed} == {("k0", 2), ("k0", 4), ("k1", 2), ("k1", 4)}
    (kept,) = bank("snapshots", "keep", ACCOUNTS, "--key", "k1", "--at", "5").rows
    assert (kept["seq"], kept["events"]) == (5, 3)
    assert bank("snapshots", "remove", "accounts", "--key", "k1", "--before", "5").rows[0]["removed"] == 1
    assert bank("snapshots", "remove", "accounts").rows == [{"name": "accounts", "removed": 4, "left": 0}]
    assert bank("replay", ACCOUNTS, "--key", "k1", "--at", "5").rows[0]["state"]["total"] == 9


def test_a_trace_that_is_followed_tells_of_events_and_of_what_became_of_them(bank: Cli) -> None:
    followed = bank.start("trace", "c-1", "--follow")
    event = {"type": "money.in", "key": "k1", "payload": {"amount": 1}, "context": {"correlation": "c-1"}}
    bank("publish", "-", stdin=json.dumps(event))
    followed.until(lambda: len(followed.out) == 1)
    serve(bank, lambda: len(followed.out) == 2)
    stored, outcome = map(json.loads, followed.out)
    assert (stored["seq"], outcome["seq"]) == (11, 11)
    assert (outcome["agent"], outcome["outcome"], outcome["attempts"]) == ("accounts", "done", 1)
    followed.signal(signal.SIGINT)
    assert followed.wait() == 0
    drawn = bank("trace", "c-1", "--sequence").out.splitlines()
    assert drawn[0].split() == ["cli", "accounts"]
    assert "11 money.in (+0 ms, waited " in drawn[1]


def test_a_projection_is_run_like_an_agent(bank: Cli) -> None:
    running = bank.start("run", "past_agents:Bank")
    running.until_said("runs bank")
    bank("publish", "money.in", '{"amount": 1}')
    running.until(lambda: bank("trim", "--until", "11", "--dry-run").rows[0]["blockers"] == [])
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert bank("run", "past_agents:Bank", "--check").rows[0]["reduces"] == ["money.*"]
