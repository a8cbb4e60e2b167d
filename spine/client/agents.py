"""What the client can do with agents: see them and their lag, pause, cancel, and deal with what they gave up."""

from __future__ import annotations

from typing import Unpack

from spine.client.overview import AgentOverview, HeldKey, Lag
from spine.client.parts import Parts
from spine.delivery.dead import DeadFilter, Wanted
from spine.delivery.leases import WorkerInfo, expire_worker, survey
from spine.delivery.records import DeadLetter
from spine.names import check_agent_name


class Agents(Parts):
    """The part of the client that looks after agents."""

    async def agents(self, agent: str | None = None) -> list[AgentOverview]:
        """Return every agent that ever ran here (or one), with its workers, versions and what each holds."""
        return await self.overview.agents(agent)

    async def workers(self, agent: str) -> list[WorkerInfo]:
        """Return the living workers of `agent`, the longest-serving first; none where no such agent ever ran."""
        living = (await survey(self.server, check_agent_name(agent))).workers.values()
        return sorted(living, key=lambda worker: (worker.started_ms, worker.worker))

    async def lag(self, agent: str | None = None) -> list[Lag]:
        """Return what each agent (or one) has before it, for each partition."""
        return await self.overview.lag(agent)

    async def held_keys(self, agent: str | None = None) -> list[HeldKey]:
        """Return the keys of every agent (or one) whose events wait, with the reason."""
        return await self.overview.held(agent)

    async def pause(self, agent: str) -> None:
        """Let the workers of an agent take nothing more; what runs is finished. Lasts until `resume`."""
        await self.overview.pause(agent, paused=True)

    async def resume(self, agent: str) -> None:
        """Let the workers of a paused agent go on."""
        await self.overview.pause(agent, paused=False)

    async def cancel(self, correlation: str) -> int:
        """Cancel a correlation: what is not yet handled is recorded as cancelled, running handlers are cancelled.

        Concerns the events stored so far, and those scheduled so far, which will not come; returns the seq of the last.
        """
        await self.timers.cancel_correlation(correlation)  # what is quicker to become due is stored by then
        head = await self.overview.cancel(correlation)
        await self.timers.cancel_correlation(correlation)  # what a handler scheduled until it was cancelled
        return head

    async def remove_agent(self, agent: str, *, force: bool = False) -> int:
        """Forget an agent that has no living worker, with its groups, states and dead letters; return keys deleted."""
        return await self.overview.remove(agent, force=force)

    async def expire_worker(self, worker: str) -> int:
        """Take the leases of a worker that is known to be dead from it at once; return how many."""
        return await expire_worker(self.server, worker)

    async def dead_letters(self, agent: str | None = None, **wanted: Unpack[Wanted]) -> list[DeadLetter]:
        """Return the events that agents (or one) gave up, by seq.

        What is wanted is said by the fields of `DeadFilter`: seq, types, key, correlation, error, since, until.
        """
        return await self._dead.find(DeadFilter.of(agent, wanted))

    async def redrive(self, agent: str | None = None, **wanted: Unpack[Wanted]) -> list[DeadLetter]:
        """Have dead letters handled again; which ones is said as for `dead_letters`. Return what is on its way.

        An event keeps its seq and its causes. Where its key was parked it takes its old place, else it runs next for
        its key; the handler sees `Handling.redriven`. Entries that are no events, and events that were trimmed away,
        stay.
        """
        return await self._dead.redrive(await self._dead.find(DeadFilter.of(agent, wanted)))

    async def discard(self, agent: str | None = None, **wanted: Unpack[Wanted]) -> list[DeadLetter]:
        """Delete dead letters for good; which ones is said as for `dead_letters`. Return what was deleted.

        A key that was parked for them goes on.
        """
        return await self._dead.discard(await self._dead.find(DeadFilter.of(agent, wanted)))
