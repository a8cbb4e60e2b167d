"""The checks that judge what the server says of itself."""

from __future__ import annotations

import pytest

from spine.operations.doctor import Check, bounds, clock, counter, eviction, memory, persistence, streams, version
from spine.operations.strays import Fault, Findings


@pytest.mark.parametrize(
    ("check", "ok"),
    [
        (version({"redis_version": "6.2.0"}), True),
        (version({"redis_version": "6.0.9"}), False),
        (version({"redis_version": "7.2.4", "valkey_version": "8.1.1"}), True),
        (eviction({"maxmemory_policy": "noeviction"}), True),
        (eviction({"maxmemory_policy": "volatile-lru"}), False),
        (eviction({}), False),
        (memory({"used_memory": 10, "maxmemory": 0}), True),
        (memory({"used_memory": 89, "maxmemory": 100}), True),
        (memory({"used_memory": 91, "maxmemory": 100}), False),
        (persistence({"aof_enabled": 1, "aof_last_write_status": "ok"}), True),
        (persistence({"aof_enabled": 1, "aof_last_write_status": "err"}), False),
        (persistence({"aof_enabled": 0}), False),
        (clock(900.0), True),
        (clock(-1100.0), False),
        (counter(Findings(streams=1, counter=5, lost=0, faults=[])), True),
        (counter(Findings(streams=1, counter=5, lost=9, faults=[])), False),
        (streams(Findings(streams=1, counter=5, lost=0, faults=[])), True),
        (streams(Findings(streams=1, counter=5, lost=0, faults=[Fault(key="s", strays=["9-1"])])), False),
    ],
)
def test_a_failed_check_says_what_to_do(check: Check, ok: bool) -> None:
    assert check.ok is ok
    assert bool(check.remedy) is not ok


def test_a_log_without_bounds_is_no_fault_but_told_of() -> None:
    assert bounds(None, 7).ok
    assert "spine trim" in bounds(None, 7).remedy
    assert bounds(None, 0).remedy == ""
    for rule, said in (
        (b'{"age_s":864000.0,"events":null}', "10 days"),
        (b'{"age_s":null,"events":5000}', "5,000 events"),
    ):
        assert said in bounds(rule, 7).detail
        assert bounds(rule, 7).remedy == ""


def test_a_fault_names_the_stream_and_the_first_entries() -> None:
    fault = Fault(key="s", strays=["1-1", "2-1", "3-1", "4-1"], blocked=True)
    assert str(fault) == "s: stray entry 1-1, 2-1, 3-1 and 1 more (blocks every append)"
