"""Who should hold which partition: the decision, without Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Plan(msgspec.Struct, frozen=True):
    """What a worker should do now.

    Attributes:
        acquire: partitions to try for.
        release: partitions to hand over, once drained.
    """

    acquire: tuple[int, ...]
    release: tuple[int, ...]


def fair_share(
    me: str,
    workers: Sequence[str],
    owners: Mapping[int, str | None],
    busy: Mapping[int, int] | None = None,
) -> Plan:
    """Return what worker `me` does so that partitions spread evenly with as few moves as possible.

    Args:
        me: this worker.
        workers: every living worker that may hold partitions.
        owners: partition → its living owner, ``None`` where it is free.
        busy: partition → handlers running in it here; the idle ones are handed over first.
    """
    mine = sorted(partition for partition, owner in owners.items() if owner == me)
    if me not in workers:
        return Plan((), tuple(mine))
    target = _targets(workers, owners)[me]
    if len(mine) > target:
        by_work = sorted(mine, key=lambda partition: ((busy or {}).get(partition, 0), partition))
        return Plan((), tuple(by_work[: len(mine) - target]))
    free = sorted(partition for partition, owner in owners.items() if owner is None or owner not in workers)
    turn = sorted(workers).index(me)
    start = turn * len(free) // len(workers) if free else 0
    rotated = free[start:] + free[:start]
    return Plan(tuple(rotated[: target - len(mine)]), ())


def _targets(workers: Sequence[str], owners: Mapping[int, str | None]) -> dict[str, int]:
    """Return how many partitions each worker should hold; those that hold most keep the odd ones."""
    held = {worker: sum(1 for owner in owners.values() if owner == worker) for worker in workers}
    base, odd = divmod(len(owners), len(workers))
    by_holding = sorted(workers, key=lambda worker: (-held[worker], worker))
    return {worker: base + (1 if place < odd else 0) for place, worker in enumerate(by_holding)}
