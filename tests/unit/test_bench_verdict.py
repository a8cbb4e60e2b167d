"""What the table says follows from the samples alone."""

from collections.abc import Sequence

import pytest

from scripts.bench.figures import FIGURES, Claim, Figure, Reading, arms_of, at_most, chosen, rates, two_worker_target
from scripts.bench.measure import Outcome
from scripts.bench.plot import nearness
from scripts.bench.report import reasons
from scripts.bench.rounds import order_of, run_rounds
from scripts.bench.verdict import Row, judge


def outcomes(**rates_of: Sequence[float]) -> dict[str, list[Outcome]]:
    return {name: [Outcome(sample={"rate": rate}) for rate in found] for name, found in rates_of.items()}


def only_row(claim: Claim, found: dict[str, list[Outcome]]) -> Row:
    (row,) = judge([Figure(name="f", title="F", claims=(claim,))], found)
    return row


def test_the_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    (claim,) = rates("ours", ("theirs", 2.0))
    row = only_row(claim, outcomes(ours=[200, 90, 300], theirs=[100, 30, 200]))
    assert row.ratio == 2.0  # of 2, 3 and 1.5; the medians' ratio would say 2 only by chance
    assert row.spread == (1.5, 3.0)
    assert (row.measured, row.against) == (200, 100)
    assert row.reached is True


@pytest.mark.parametrize(("rate", "reached"), [(39.9, False), (40.0, True)])
def test_a_rate_has_to_reach_its_target(rate: float, reached: bool) -> None:
    (claim,) = rates("ours", ("theirs", 0.4))
    assert only_row(claim, outcomes(ours=[rate], theirs=[100])).reached is reached


@pytest.mark.parametrize(("rate", "reached"), [(100.0, True), (100.1, False)])
def test_a_cost_has_to_stay_below_its_target(rate: float, reached: bool) -> None:
    claim = at_most(Reading("ours"), 1.0, Reading("theirs"))
    assert only_row(claim, outcomes(ours=[rate], theirs=[100])).reached is reached


def test_a_value_with_nothing_beside_it_is_held_against_the_target_itself() -> None:
    claim = at_most(Reading("ours"), 4.0)
    assert only_row(claim, outcomes(ours=[3, 5, 4])).reached is True
    assert only_row(at_most(Reading("ours"), 0.0), outcomes(ours=[0])).reached is True


def test_a_claim_without_target_is_not_judged() -> None:
    (claim,) = rates("ours", ("theirs", None))
    row = only_row(claim, outcomes(ours=[100], theirs=[50]))
    assert (row.ratio, row.reached) == (2.0, None)


def test_a_peer_that_is_missing_leaves_a_row_and_a_reason() -> None:
    (claim,) = rates("ours", ("theirs", 1.0))
    found = {**outcomes(ours=[100]), "theirs": [Outcome(reason="not installed: theirs", absent=True)]}
    row = only_row(claim, found)
    assert (row.measured, row.ratio, row.reached) == (100, None, None)
    assert reasons(found) == [("theirs", "not installed: theirs")]


def test_a_failed_round_is_left_out_of_the_ratio() -> None:
    (claim,) = rates("ours", ("theirs", 1.0))
    found = outcomes(ours=[100, 300], theirs=[100])
    found["theirs"].append(Outcome(reason="gave up"))
    assert only_row(claim, found).ratio == 1.0


@pytest.mark.parametrize(
    ("operator_claim", "expected"),
    [(rates("ours", ("theirs", 2.0))[0], 0.5), (at_most(Reading("ours"), 2.0, Reading("theirs")), 2.0)],
)
def test_nearness_to_the_target_reads_the_same_way_for_rates_and_costs(operator_claim: Claim, expected: float) -> None:
    assert nearness(only_row(operator_claim, outcomes(ours=[100], theirs=[100]))) == expected


def test_every_round_measures_every_arm_once_and_begins_elsewhere() -> None:
    plan = list(order_of(["a", "b", "c", "d"], 2))
    assert plan == [(0, "a"), (0, "b"), (0, "c"), (0, "d"), (1, "c"), (1, "d"), (1, "a"), (1, "b")]


def test_an_arm_that_failed_is_not_tried_again() -> None:
    calls: list[str] = []

    def measure(name: str) -> Outcome:
        calls.append(name)
        return Outcome(reason="broken") if name == "bad" else Outcome(sample={"rate": 1})

    found = run_rounds(["good", "bad"], 3, measure, lambda *_: None)
    assert calls.count("bad") == 1
    assert len(found["good"]) == 3


def test_two_workers_are_asked_for_more_where_there_are_cores_for_them() -> None:
    assert (two_worker_target(2), two_worker_target(4)) == (1.3, 1.6)


def test_only_names_figures_and_says_which_there_are() -> None:
    assert [figure.name for figure in chosen(["replay"])] == ["replay"]
    assert chosen([]) == FIGURES
    with pytest.raises(KeyError, match=r"no figure nonsense; there are: .*replay"):
        chosen(["nonsense"])


def test_an_arm_that_several_figures_need_is_measured_once() -> None:
    arms = arms_of(chosen(["publish_many", "publish"]))
    assert arms.count("nats.publish") == 1
