"""publish, tail, history, replay and trace, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from spine_command import Cli, command

from spine.testing.servers import RedisServer


def ndjson(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_published_event_is_written_as_it_is_stored(cli: Cli) -> None:
    done = cli("publish", "order.placed", '{"sku": 7}', "--key", "c-1", "--priority", "urgent", "--session", "s")
    assert done.code == 0
    (event,) = done.rows
    assert (event["seq"], event["type"], event["key"], event["payload"]) == (1, "order.placed", "c-1", {"sku": 7})
    assert event["context"]["session_id"] == "s"
    assert event["context"]["priority"] == 0
    assert cli("history").rows == [event]


def test_a_payload_may_be_left_out_and_an_inbox_be_named(cli: Cli) -> None:
    (event,) = cli("publish", "nightly.run", "--to", "scheduling").rows
    assert (event["payload"], event["topic"]) == ({}, "@scheduling")


def test_a_dedupe_key_stores_once(cli: Cli) -> None:
    first, second = (cli("publish", "a.b", "{}", "--dedupe-key", "once").rows for _ in range(2))
    assert first == second


def test_bad_input_is_a_usage_error_that_says_what_to_change(cli: Cli) -> None:
    for args, says in (
        (("publish", "Order", "{}"), "not a valid name"),
        (("publish", "a.b", "{"), "not JSON"),
        (("publish", "a.b", "[1]"), "must be a JSON object, not an array"),
        (("publish", "a.b", "{}", "--url", "http://x"), "redis://"),
        (("publish", "a.b", "{}", "--namespace", "No Good"), "not a valid name"),
        (("history", "--since", "yesterday"), "neither a seq"),
        (("replay", "--at", "5", "--until", "6"), "exclude each other"),
        (("tail", "-n", "5", "--after", "6"), "exclude each other"),
        (("tail", "-t", "No Good"), "not a valid type"),
    ):
        done = cli(*args)
        assert (done.code, done.out) == (2, ""), args
        assert says in done.err, args
    assert cli("history").rows == []


def test_no_redis_is_an_exit_code_of_its_own_and_says_which_url_without_its_password(cli: Cli) -> None:
    done = cli("history", "--url", "redis://:hush@127.0.0.1:1/0")
    assert done.code == 4
    assert "no Redis at redis://:***@127.0.0.1:1/0" in done.err
    assert "hush" not in done.err


def test_lines_of_stdin_are_payloads_of_one_type(cli: Cli) -> None:
    done = cli("publish", "a.b", "-", "--key", "k", stdin=ndjson(*({"n": n} for n in range(1234))))
    (summary,) = done.rows
    assert (done.code, summary["stored"], summary["first_seq"], summary["last_seq"]) == (0, 1234, 1, 1234)
    replayed = cli("replay", "--key", "k").rows
    assert [event["payload"]["n"] for event in replayed] == list(range(1234))


def test_lines_of_stdin_are_whole_events_and_what_history_wrote_can_be_read_again(cli: Cli) -> None:
    first = cli(
        "publish",
        "-",
        stdin=ndjson(
            {"type": "a.b", "payload": {"n": 1}, "key": "k"},
            {"type": "c.d", "to": "clerk", "priority": "background", "context": {"session_id": "s", "path": ["x"]}},
        ),
    )
    assert first.rows[0]["stored"] == 2
    exported = cli("replay")
    again = cli("publish", "-", "--url", cli.env["SPINE_URL"], stdin=exported.out)
    assert again.rows[0]["stored"] == 2
    old, new = exported.rows, cli("replay", "--after", "2").rows
    for event in old + new:
        for given in ("seq", "id", "ts"):
            del event[given]
    assert new == old


def test_a_bad_line_stops_and_is_named_and_what_precedes_it_is_stored(cli: Cli) -> None:
    for bad, says in (("{", "not JSON"), ("7", "must be a JSON object, not a number"), ('{"x": 1e400}', "line 3")):
        done = cli("publish", "a.b", "-", stdin='{"n": 1}\n{"n": 2}\n' + bad + '\n{"n": 4}\n')
        assert done.code == 1
        assert "line 3: " in done.err
        assert says in done.err
        assert "of the lines up to 2" in done.err
        assert "nothing of line 3 or later is stored" in done.err
        assert done.rows[0]["stored"] == 2
    assert len(cli("history").rows) == 6


def test_a_line_that_only_the_publish_refuses_is_named_as_well(cli: Cli) -> None:
    done = cli("publish", "-", stdin=ndjson({"type": "a.b"}, {"type": "Not Good"}, {"type": "a.b"}))
    assert done.code == 1
    assert "line 2: type 'Not Good' is not a valid name" in done.err
    assert done.rows[0]["stored"] == 1


def test_bad_lines_can_be_left_out(cli: Cli) -> None:
    lines = ndjson({"type": "a.b"}, {"typ": "a.b"}, {"type": "spine.x"}, {"type": "a.b", "priority": "high"}) + "\n{}\n"
    done = cli("publish", "-", "--keep-going", stdin=lines + ndjson({"type": "z.z"}))
    assert done.code == 1
    (summary,) = done.rows
    assert (summary["stored"], summary["lines"], summary["bad_lines"]) == (2, 7, 4)
    for says in ("line 2: unknown field 'typ'", "line 3: ", "line 4: priority 'high'", 'line 6: no "type"'):
        assert says in done.err
    assert [event["type"] for event in cli("replay").rows] == ["a.b", "z.z"]


def test_lines_are_stored_as_they_come_not_when_the_pipe_ends(cli: Cli) -> None:
    seen = cli.start("tail", "--after", "0", "--count", "1")
    process = subprocess.Popen(
        command("publish", "a.b", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=cli.env
    )
    assert process.stdin is not None
    try:
        process.stdin.write(b'{"n": 1}\n')
        process.stdin.flush()
        seen.until(lambda: seen.out)
        assert process.poll() is None
    finally:
        out, _ = process.communicate(timeout=30)
    assert json.loads(out)["stored"] == 1
    assert seen.wait() == 0


def test_tail_shows_the_newest_and_then_what_comes_until_ctrl_c(cli: Cli) -> None:
    cli("publish", "-", stdin=ndjson({"type": "a.b", "payload": {"n": 1}}, {"type": "c.d"}, {"type": "a.c"}))
    running = cli.start("tail", "-t", "a.*", "-n", "1")
    running.until(lambda: len(running.out) == 1)
    cli("publish", "-", stdin=ndjson({"type": "c.d"}, {"type": "a.z"}))
    running.until(lambda: len(running.out) == 2)
    assert [json.loads(line)["seq"] for line in running.out] == [3, 5]
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    assert running.err == []


def test_tail_ends_after_so_many_also_among_the_newest(cli: Cli) -> None:
    cli("publish", "a.b", "-", stdin=ndjson(*({"n": n} for n in range(4))))
    assert [row["payload"]["n"] for row in cli("tail", "-n", "3", "--count", "2").rows] == [1, 2]
    assert [row["payload"]["n"] for row in cli("tail", "-n", "3", "--count", "3").rows] == [1, 2, 3]


def test_a_file_may_begin_as_some_editors_have_it_and_end_its_lines_as_others_do(cli: Cli) -> None:
    done = cli("publish", "a.b", "-", stdin=b'\xef\xbb\xbf{"n": 1}\r\n{"n": 2}\r\n')
    assert (done.code, done.rows[0]["stored"]) == (0, 2)


def test_tail_outlasts_a_server_that_is_away_for_longer_than_a_command_waits(cli: Cli, tmp_path: Path) -> None:
    with RedisServer.start(tmp_path / "server", appendonly=True, appendfsync="always") as server:
        cli.env["SPINE_URL"] = server.url
        cli("publish", "a.b", '{"n": 1}')
        tail = cli.start("tail", "-n", "1")
        tail.until(lambda: len(tail.out) == 1)
        server.kill()
        tail.until_said("interrupted")
        assert cli("history").code == 4  # which waits for as long as a command does
        server.restart()
        cli("publish", "a.b", '{"n": 2}')
        tail.until(lambda: len(tail.out) == 2)
        tail.signal(signal.SIGINT)
        assert tail.wait() == 0


def test_history_is_filtered_and_says_how_to_see_more(cli: Cli) -> None:
    lines = [{"type": f"t.{n % 3}", "key": f"k{n % 2}", "context": {"correlation": f"c{n % 5}"}} for n in range(30)]
    cli("publish", "-", stdin=ndjson(*lines))
    done = cli("history", "-n", "2")
    assert [event["seq"] for event in done.rows] == [30, 29]
    assert "--until 28" in done.err
    assert [event["seq"] for event in cli("history", "-n", "2", "--until", "28").rows] == [28, 27]
    assert {event["type"] for event in cli("history", "-t", "t.1,t.2").rows} == {"t.1", "t.2"}
    assert [event["seq"] for event in cli("history", "--key", "k0", "--correlation", "c0").rows] == [21, 11, 1]
    assert [event["seq"] for event in cli("history", "--since", "28").rows] == [30, 29]
    assert len(cli("history", "--since", "-1h").rows) == 30
    assert cli("history", "--until", "-1h").rows == []
    assert cli("history", "--since", "2020-01-01 00:00", "--until", "2020-01-02").rows == []


def test_replay_reads_in_order_up_to_a_point(cli: Cli) -> None:
    cli("publish", "-", stdin=ndjson(*({"type": f"t.{n % 7}"} for n in range(50))))
    assert [event["seq"] for event in cli("replay").rows] == list(range(1, 51))
    assert [event["seq"] for event in cli("replay", "--after", "10", "--at", "12").rows] == [11, 12]
    assert cli("replay", "--at", "-1h").rows == []
    assert cli("replay", "--after", "-1h", "-t", "t.1", "--until", "10").rows[0]["seq"] == 2


def test_the_three_formats(cli: Cli) -> None:
    cli("publish", "a.b", '{"n": 1}', "--key", "k")
    assert len(cli("history", "-o", "ndjson").rows) == 1
    assert len(json.loads(cli("history", "-o", "json").out)) == 1
    assert json.loads(cli("history", "-o", "json", "-t", "none").out) == []
    header, line = cli("history", "-o", "table").out.splitlines()
    assert header.split() == ["SEQ", "TIME", "TYPE", "KEY", "SOURCE", "PAYLOAD"]
    assert line.split()[3:] == ["a.b", "k", "cli", '{"n":1}']


def test_a_terminal_gets_a_table_that_no_payload_can_steer(cli: Cli) -> None:
    cli("publish", "a.b", json.dumps({"text": "\x1b[2J\u202e"}), "--key", "k\x1b[2J")
    ours, theirs = pty.openpty()
    env = {**cli.env, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command("history"), stdout=theirs, stderr=subprocess.PIPE, env=env)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert b"SEQ" in shown
    assert b"\\u001b[2J" in shown
    assert b"\x1b[2J" not in shown
    assert "\u202e".encode() not in shown


@pytest.mark.parametrize("output", ["ndjson", "json", "table"])
def test_a_reader_that_goes_away_is_no_error(cli: Cli, output: str) -> None:
    cli("publish", "a.b", "-", stdin=ndjson(*({"n": n, "text": "x" * 200} for n in range(5000))))
    process = subprocess.Popen(
        command("replay", "-o", output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.env, bufsize=0
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), err) == (0, b"")


def test_a_trace_shows_causes(cli: Cli) -> None:
    def caused(seq: int | None) -> dict[str, object]:
        return {"correlation": "c-1", "causation": seq}

    lines = [
        {"type": "asked", "context": caused(None)},
        {"type": "looked", "context": caused(1)},
        {"type": "other"},
        {"type": "booked", "context": caused(1), "to": "clerk"},
        {"type": "told", "context": caused(2), "payload": {"n": 1}},
    ]
    cli("publish", "-", stdin=ndjson(*lines))
    tree = cli("trace", "c-1", "-o", "table").out.splitlines()
    shown = [(len(line) - len(line.lstrip("│├└─ ")), line.lstrip("│├└─ ").split()[0]) for line in tree[1:]]
    assert shown == [(4, "1"), (8, "2"), (12, "5"), (8, "4")]
    as_json = json.loads(cli("trace", "c-1", "-o", "json").out)
    assert [(node["seq"], node["depth"], node["causation"]) for node in as_json["events"]] == [
        (1, 0, None),
        (2, 1, 1),
        (4, 1, 1),
        (5, 2, 2),
    ]
    assert [node["seq"] for node in cli("trace", "c-1").rows] == [1, 2, 4, 5]
    diagram = cli("trace", "c-1", "--mermaid").out
    assert diagram.startswith("sequenceDiagram\n")
    assert ": 4 booked (+" in diagram
    drawn = cli("trace", "c-1", "--sequence").out.splitlines()
    assert drawn[0].split() == ["cli", "clerk", "log"]
    assert [line.split("  ")[-1].split()[:2] for line in drawn[1:]][2] == ["4", "booked"]
    assert cli("trace", "c-1", "--sequence", "--mermaid").code == 2
    missing = cli("trace", "nobody")
    assert (missing.code, missing.out) == (1, "")
    assert "no event has the correlation 'nobody'" in missing.err


def test_a_trace_of_thousands_is_drawn_within_a_page_unless_all_is_asked_for(cli: Cli) -> None:
    def caused(seq: int | None) -> dict[str, object]:
        return {"correlation": "c-1", "causation": seq}

    deep = [{"type": "step", "context": caused(seq or None)} for seq in range(60)]
    wide = [{"type": "leaf", "context": caused(1)} for _ in range(500)]
    cli("publish", "-", stdin=ndjson(*deep, *wide))
    drawn = cli("trace", "c-1", "-o", "table").out.splitlines()
    assert len(drawn) == 1 + 60 + 10 + 1
    assert "… 490 more leaf, seq 71 to 560" in drawn[-1]
    assert max(map(len, drawn)) < 200
    assert len(cli("trace", "c-1", "-o", "table", "--all").out.splitlines()) == 1 + 560


def test_a_correlation_is_shown_as_it_is_whatever_it_looks_like(cli: Cli) -> None:
    cli("publish", "asked", "{}", "--correlation", "c[/x]:smile:")
    assert cli("trace", "c[/x]:smile:", "-o", "table").out.startswith("c[/x]:smile:  1 events")


def test_without_a_url_the_server_of_the_directory_is_used(cli: Cli, tmp_path: Path) -> None:
    del cli.env["SPINE_URL"]
    assert cli("publish", "a.b", '{"n": 1}').code == 0
    (event,) = cli("history").rows
    assert event["payload"] == {"n": 1}
    assert datetime.fromisoformat(event["ts"]).tzinfo is not None
    assert (tmp_path / ".spine").is_dir()
