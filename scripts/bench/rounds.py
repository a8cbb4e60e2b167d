"""Several rounds over all arms, interleaved, so that a slow minute of the machine hits every arm alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from scripts.bench.measure import Outcome

Outcomes = Mapping[str, Sequence[Outcome]]
"""Arm name -> its outcome in each round; shorter where an arm was given up."""


def order_of(arms: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Round and arm, each round beginning further on in the list: no arm always follows the same one's heat."""
    for number in range(rounds):
        shift = number * len(arms) // max(1, rounds)
        for name in (*arms[shift:], *arms[:shift]):
            yield number, name


def run_rounds(
    arms: Sequence[str],
    rounds: int,
    measure: Callable[[str], Outcome],
    progress: Callable[[int, str, Outcome], None],
) -> Outcomes:
    """Measure every arm once a round; one that gave no sample is not tried again."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in arms}
    for number, name in order_of(arms, rounds):
        if any(outcome.sample is None for outcome in outcomes[name]):
            continue
        outcome = measure(name)
        outcomes[name].append(outcome)
        progress(number, name, outcome)
    return outcomes
