"""Who should hold which partition: even shares, few moves, agreement from any start."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spine.delivery.share import fair_share

Owners = dict[int, str | None]


def names(count: int) -> list[str]:
    return [f"w{place}" for place in range(count)]


def settle(workers: list[str], owners: Owners, busy: dict[int, int] | None = None) -> tuple[Owners, int]:
    """Let the workers act in turn until none wants anything; return the owners and how many partitions moved."""
    moves = 0
    for _ in range(50):
        quiet = True
        for worker in workers:
            plan = fair_share(worker, workers, owners, busy)
            for partition in plan.release:
                assert owners[partition] == worker
                owners[partition] = None
                moves += 1
            for partition in plan.acquire:
                assert owners[partition] not in workers
                owners[partition] = worker
            quiet = quiet and not plan.release and not plan.acquire
        if quiet:
            return owners, moves
    raise AssertionError(f"no agreement: {owners}")


def counts(owners: Owners, workers: list[str]) -> list[int]:
    return sorted(sum(1 for owner in owners.values() if owner == worker) for worker in workers)


def test_ten_workers_over_eight_partitions_leave_two_standing_by() -> None:
    owners, _ = settle(names(10), dict.fromkeys(range(8)))
    assert counts(owners, names(10)) == [0, 0] + [1] * 8


def test_one_more_worker_takes_its_share_and_nothing_else_moves() -> None:
    before: Owners = {partition: f"w{partition % 2}" for partition in range(8)}
    owners, moves = settle(names(3), dict(before))
    assert counts(owners, names(3)) == [2, 3, 3]
    assert moves == 2
    assert sum(1 for partition in owners if owners[partition] != before[partition]) == 2


def test_a_partition_without_running_handlers_is_handed_over_first() -> None:
    owners: Owners = dict.fromkeys(range(4), "w0")
    assert fair_share("w0", names(2), owners, {0: 3, 1: 1, 3: 2}).release == (2, 1)


def test_a_dead_owner_is_no_owner() -> None:
    owners: Owners = dict.fromkeys(range(4), "dead")
    assert fair_share("w0", ["w0"], owners).acquire == (0, 1, 2, 3)


def test_who_may_hold_nothing_gives_everything_back() -> None:
    plan = fair_share("old", ["new"], {0: "old", 1: "new", 2: None})
    assert (plan.acquire, plan.release) == ((), (0,))


def test_workers_that_start_at_once_do_not_race_for_the_same_partitions() -> None:
    workers = names(4)
    wanted = [fair_share(worker, workers, dict.fromkeys(range(8))).acquire for worker in workers]
    assert sorted(partition for share in wanted for partition in share) == list(range(8))


@given(
    st.integers(1, 12),
    st.lists(st.one_of(st.none(), st.integers(0, 13)), min_size=1, max_size=24),
    st.dictionaries(st.integers(0, 23), st.integers(0, 9)),
)
def test_from_any_start_they_agree_on_even_shares_with_the_fewest_moves(
    count: int, drawn: list[int | None], busy: dict[int, int]
) -> None:
    workers = names(count)
    before: Owners = {place: None if owner is None else f"w{owner}" for place, owner in enumerate(drawn)}
    owners, moves = settle(workers, dict(before), busy)
    base, odd = divmod(len(owners), count)
    assert counts(owners, workers) == [base] * (count - odd) + [base + 1] * odd
    held = sorted((sum(1 for o in before.values() if o == worker) for worker in workers), reverse=True)
    targets = [base + 1] * odd + [base] * (count - odd)
    assert moves == sum(max(0, has - target) for has, target in zip(held, targets, strict=True))


@given(st.integers(1, 12), st.lists(st.one_of(st.none(), st.integers(0, 13)), min_size=1, max_size=24), st.randoms())
def test_they_agree_even_when_all_decide_by_the_same_old_view(count: int, drawn: list[int | None], random: Any) -> None:
    workers = names(count)
    owners: Owners = {place: None if owner is None else f"w{owner}" for place, owner in enumerate(drawn)}
    for _ in range(2 * len(owners) + 2):
        plans = [(worker, fair_share(worker, workers, owners)) for worker in workers]
        if not any(plan.acquire or plan.release for _, plan in plans):
            break
        random.shuffle(plans)
        for worker, plan in plans:
            owners.update(dict.fromkeys(plan.release))
            for partition in plan.acquire:
                if owners[partition] not in workers:
                    owners[partition] = worker
    base, odd = divmod(len(owners), count)
    assert counts(owners, workers) == [base] * (count - odd) + [base + 1] * odd
