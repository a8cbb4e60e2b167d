"""Making way: slots of one worker are given up where urgent work needs them or waits behind what holds them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from spine.agent import Agent
from spine.coordination.preemption import PATIENCE_S, AtWork, give_way
from spine.delivery.hand import Hand, Taken
from spine.events import Priority
from spine.worker.attempt import Running
from spine.worker.limits import Limits, Turn
from spine.worker.slots import Slots

logger = logging.getLogger("spine")


class Preempting:
    """Watches over the slots of one agency: handlers at work, `running` by seq, and those that wait for `limits`."""

    def __init__(
        self, agent: type[Agent[Any]], hand: Hand, slots: Slots, running: Mapping[int, Running], limits: Limits
    ) -> None:
        self._name = agent.name
        self._ageing_s = agent.ageing_s
        self._wanted = limits.needed or any(spec.preemptible for spec in agent.handlers)
        self._hand = hand
        self._slots = slots
        self._running = running
        self._limits = limits

    def look(self) -> None:
        """Have slots given up for urgent events that may run."""
        if not self._wanted or not self._hand.sizes[Priority.URGENT]:
            return
        at_work = {one.seq: (one, holder) for one, holder in self._at_work()}
        waiting = self._hand.urgent_ready(len(at_work)) if at_work and self._slots.full else 0
        chosen = give_way((one for one, _ in at_work.values()), waiting, time.monotonic(), self._ageing_s)
        for one in chosen:
            logger.debug("%s: event %d gives way to urgent work", self._name, one.seq)
            holder = at_work[one.seq][1]
            if isinstance(holder, Turn):
                holder.make_way()
            else:
                holder.cancel("preempted")
        if chosen:
            asyncio.get_running_loop().call_later(PATIENCE_S, self.look)

    def _at_work(self) -> Iterator[tuple[AtWork, Running | Turn]]:
        for running in self._running.values():
            taken = running.taken
            if running.preemptible and running.reason in (None, "preempted") and _may_wait(taken):
                yield self._holding(taken, running.began_at, running.preempted_at, has_slot=not running.waits), running
        for turn in self._limits.turns:
            if turn.taken is not None and _may_wait(turn.taken):
                yield self._holding(turn.taken, turn.since, turn.asked_at, begun=False), turn

    def _holding(
        self, taken: Taken, began_at: float, asked_at: float | None, *, begun: bool = True, has_slot: bool = True
    ) -> AtWork:
        return AtWork(
            seq=taken.event.seq,
            began_at=began_at,
            begun=begun,
            asked_at=asked_at,
            preempted=taken.preempted,
            preempted_at=taken.preempted_at,
            has_slot=has_slot,
            in_the_way=self._hand.urgent_behind(taken.order_key),
        )


def _may_wait(taken: Taken) -> bool:
    urgent = taken.lane == Priority.URGENT or taken.event.context.priority == Priority.URGENT
    return not urgent and not taken.by_age
