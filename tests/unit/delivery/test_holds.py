"""How a held key is stored, and what is written to hold and to release it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spine.delivery.holds import BACKLOG, FOREVER, Hold, HoldWrites, Listed, decode_hold
from spine.keys import Keys

seqs = st.integers(1, 2**53)


@given(
    st.builds(
        Hold,
        until_ms=st.integers(0, FOREVER),
        reason=st.sampled_from(["retry", "parked", "reducer", "backlog"]),
        attempts=st.dictionaries(seqs, st.integers(1, 99)),
        by=st.integers(0, 2**53),
        error=st.text(),
        version=st.text(),
    )
)
def test_a_hold_comes_back_as_it_was_stored(hold: Hold) -> None:
    write = HoldWrites(Keys("n"), "agent", 3).set("k", hold)
    assert write.args[0] == "k"
    assert decode_hold(write.args[1]) == hold  # type: ignore[arg-type]


def test_a_backlog_is_due_at_once_and_knows_no_attempts() -> None:
    assert decode_hold(BACKLOG) == Hold(until_ms=0, reason="backlog")


def test_holding_never_replaces_a_known_hold_when_an_event_only_joins_the_list() -> None:
    push, hold = HoldWrites(Keys("n"), "agent", 3).to_back("k", "7:1")
    assert (push.command, hold.command) == ("RPUSH", "HSETNX")
    assert push.key == Keys("n").waiting("agent", 3, "k")
    assert hold.key == Keys("n").holds("agent", 3)


def test_a_release_looks_at_the_list_of_that_key() -> None:
    writes = HoldWrites(Keys("n"), "agent", 3)
    release = writes.release("k")
    assert (release.command, release.args, release.other_keys) == ("unhold", ("k",), (writes.waiting("k"),))


@given(st.builds(Listed, seq=seqs, stream=st.integers(1, 10**6), redriven=st.booleans()))
def test_a_reference_of_a_waiting_list_comes_back_as_it_was_written(listed: Listed) -> None:
    assert Listed.parse(str(listed).encode()) == listed


def test_a_reference_is_seq_and_stream_and_says_when_it_was_redriven() -> None:
    assert str(Listed(7, 3)) == "7:3"
    assert str(Listed(7, 3, redriven=True)) == "7:3:r"
