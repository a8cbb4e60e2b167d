"""Which arrivals wait in a gate at a moment is what playing the gate itself says."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from spine.coordination.gate import Round, decide, with_arrival
from spine.events import Context, Event, from_ms
from spine.past.fork.gates import Arrival, still_waiting

CONDITIONS = ("a.a", "b.b", "c.c")
WITHIN_MS = 1_000


def event(seq: int, type: str, ts_ms: int, id: str = "") -> Event[Any]:
    return Event(
        seq=seq,
        id=id or str(seq),
        type=type,
        topic=type,
        key="k",
        source="s",
        payload={},
        context=Context(),
        ts=from_ms(ts_ms),
    )


moves = st.lists(st.tuples(st.sampled_from([*CONDITIONS, ""]), st.integers(0, 600)), max_size=25)


@given(moves, st.booleans())
def test_it_is_what_the_gate_itself_holds(moves: list[tuple[str, int]], limited: bool) -> None:
    round, arrivals, now, begun = Round(), [], 0, []
    for seq, (type, later) in enumerate(moves, 1):
        now += later
        if type:
            arrivals.append(Arrival(seq, 0, seq, "gate", "k", type, now))
            came = event(seq, type, now)
        elif begun and limited:
            # The time-out of any round so far: it may come late.
            began = begun[later % len(begun)]
            arrivals.append(Arrival(seq, 0, seq, "gate", "k", "", now, began))
            came = event(seq, "spine.gate.gate", now, f"t{began}")
        else:
            continue
        match decide(CONDITIONS, round, came):
            case "begin" | "late":
                until = now + WITHIN_MS if limited else None
                round = Round({type: came}, until, f"t{seq}" if limited else "")
                begun.append(seq)
            case "join":
                round = msgspec.structs.replace(round, arrived=with_arrival(round.arrived, came))
            case "open" | "over":
                round = Round()
    wanted = {one.seq for one in round.arrived.values()} | ({begun[-1]} if round.arrived else set())
    within = {"gate": WITHIN_MS / 1000 if limited else None}
    assert still_waiting({"gate": frozenset(CONDITIONS)}, within, arrivals) == wanted
