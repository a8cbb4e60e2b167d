"""Preemption: urgent work takes the slot of work in hand that says it may be interrupted.

    @on("report.wanted", preemptible=True)
    async def write(self, event: Event, ctx: Handling) -> None: ...

When an urgent event of the agent is ready and every slot is taken, the handler that began last is cancelled at its next
await. Its event is back at its old place, no attempt is counted, its recorded steps stay, and it runs again afterwards.
What has not begun, because the agent's rate or limit holds it back, goes before that and need not say so.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

TIMES = 3
PATIENCE_S = 0.005


class AtWork(msgspec.Struct, kw_only=True):
    """What holds a slot and may have to give it up; urgent work and what had its turn by its age does not.

    Attributes:
        seq: of its event.
        began_at: when it got its slot (monotonic seconds, like all times here).
        begun: the handler runs; otherwise it still waits for the agent's rate or limit, and nothing is lost.
        asked_at: when it was told to give way; ``None`` when it was not.
        preempted: how often its event gave way before.
        preempted_at: when that was first.
        has_slot: it holds a slot; one that waits for others does not.
        in_the_way: an urgent event of its own key waits for it.
    """

    seq: int
    began_at: float
    begun: bool = True
    asked_at: float | None = None
    preempted: int = 0
    preempted_at: float = 0.0
    has_slot: bool = True
    in_the_way: bool = False


def give_way(at_work: Iterable[AtWork], waiting: int, now: float, ageing_s: float) -> list[AtWork]:
    """Return which are to give up their slots for `waiting` urgent events that have none.

    Those that have not begun go first, then the one that began last: the least work is lost. One that an urgent event
    of its own key waits for goes in any case. A handler gives way `TIMES` times, and not when the first of these is
    longer than `ageing_s` ago.

    A slot that is being given up already counts for `PATIENCE_S`: a handler that takes longer to end, or does not mean
    to, keeps no urgent work waiting that another one could make way for.
    """
    free: list[AtWork] = []
    asked = 0
    for one in at_work:
        if one.asked_at is not None:
            asked += one.has_slot and not one.in_the_way and now - one.asked_at < PATIENCE_S
        elif not one.begun or (one.preempted < TIMES and (not one.preempted or now - one.preempted_at <= ageing_s)):
            free.append(one)
    chosen = [one for one in free if one.in_the_way]
    others = [one for one in free if one.has_slot and not one.in_the_way]
    others.sort(key=lambda one: (one.begun, -one.began_at))
    return chosen + others[: max(0, waiting - asked)]
