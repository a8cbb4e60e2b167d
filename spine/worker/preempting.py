"""Making way: handlers of one worker are cancelled where urgent work needs their slot or waits behind them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from spine.agent import Agent
from spine.coordination.preemption import PATIENCE_S, AtWork, give_way
from spine.delivery.hand import Hand
from spine.events import Priority
from spine.worker.attempt import Running
from spine.worker.slots import Slots

logger = logging.getLogger("spine")


class Preempting:
    """Watches over the handlers at work of one agency, `running` by seq."""

    def __init__(self, agent: type[Agent[Any]], hand: Hand, slots: Slots, running: Mapping[int, Running]) -> None:
        self._name = agent.name
        self._ageing_s = agent.ageing_s
        self._wanted = any(spec.preemptible for spec in agent.handlers)
        self._hand = hand
        self._slots = slots
        self._running = running

    def look(self) -> None:
        """Cancel whatever has to make way for an urgent event that may run."""
        if not self._wanted or not self._hand.sizes[Priority.URGENT]:
            return
        at_work = [self._at_work(running) for running in self._running.values() if _may_be_cut_off(running)]
        waiting = self._hand.urgent_ready(len(at_work)) if at_work and self._slots.full else 0
        chosen = give_way(at_work, waiting, time.monotonic(), self._ageing_s)
        for one in chosen:
            logger.debug("%s: event %d gives way to urgent work", self._name, one.seq)
            self._running[one.seq].cancel("preempted")
        if chosen:
            asyncio.get_running_loop().call_later(PATIENCE_S, self.look)

    def _at_work(self, running: Running) -> AtWork:
        taken = running.taken
        return AtWork(
            seq=taken.event.seq,
            began_at=running.began_at,
            asked_at=running.preempted_at,
            preempted=taken.preempted,
            preempted_at=taken.preempted_at,
            has_slot=not running.waits,
            in_the_way=self._hand.urgent_behind(taken.order_key),
        )


def _may_be_cut_off(running: Running) -> bool:
    taken = running.taken
    urgent = taken.lane == Priority.URGENT or taken.event.context.priority == Priority.URGENT
    return running.preemptible and running.reason in (None, "preempted") and not urgent and not taken.by_age
