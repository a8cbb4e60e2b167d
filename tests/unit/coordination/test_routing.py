"""Where work goes is decided by rules that were checked when they were built."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine import InvalidInput, NoRoute
from spine.coordination.routing import Condition, Router, confidence, field, rule

ROUTER = Router(rule(confidence >= 0.85, to="auto"), rule(confidence >= 0.5, to="review"), otherwise="human")


@pytest.mark.parametrize(
    ("value", "to"),
    [(1, "auto"), (0.85, "auto"), (0.8499, "review"), (0.5, "review"), (0.49, "human"), (0, "human")],
)
def test_the_first_rule_that_holds_decides(value: float, to: str) -> None:
    assert ROUTER.decide({"confidence": value}).to == to


@given(st.floats(allow_nan=True))
def test_every_number_goes_somewhere(value: float) -> None:
    assert ROUTER.decide({"confidence": value}).to in {"auto", "review", "human"}


@pytest.mark.parametrize("payload", [{}, {"confidence": None}, {"confidence": "high"}, {"confidence": True}])
def test_what_lacks_the_field_goes_otherwise(payload: dict[str, object]) -> None:
    assert ROUTER.decide(payload).to == "human"


@pytest.mark.parametrize("value", [91, 1.01, -0.5, float("inf"), float("nan")])
def test_a_number_off_the_scale_makes_nothing_certain(value: float) -> None:
    """91 may be a percentage, or anything: it must not go where only what is certain goes."""
    assert ROUTER.decide({"confidence": value}).to == "human"
    with pytest.raises(NoRoute, match=f"confidence is {value!r}"):
        Router(rule(confidence >= 0.5, to="a"), rule(confidence < 0.5, to="b")).decide({"confidence": value})


@pytest.mark.parametrize("value", [85, -0.1, "high", None, True])
def test_a_confidence_is_compared_with_one(value: object) -> None:
    for build in (lambda: confidence >= value, lambda: confidence.one_of(0.5, value)):
        with pytest.raises(InvalidInput, match=r"goes from 0 to 1 .* use field\('confidence'\) for another scale"):
            build()
    assert Router(rule(field("confidence") >= 85, to="a"), otherwise="b").decide({"confidence": 91}).to == "a"


def test_true_is_no_number() -> None:
    router = Router(rule(field("n") >= 1, to="a"), rule(field("n").one_of(0, 0.5), to="b"), otherwise="c")
    assert [router.decide({"n": n}).to for n in (1, 0, True, False)] == ["a", "b", "c", "c"]


def test_a_rule_that_nothing_fits_is_refused() -> None:
    for condition in (confidence > 1, (field("n") > 2) & (field("n") < 1)):
        with pytest.raises(InvalidInput, match="never decides: nothing fits it"):
            Router(rule(condition, to="a"), otherwise="b")


def test_the_reason_names_rule_and_value() -> None:
    decision = ROUTER.decide({"confidence": 0.91})
    assert decision.rule == "confidence >= 0.85"
    assert decision.reason == "confidence >= 0.85 (confidence is 0.91)"


def test_a_rule_that_can_never_decide_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"rule 2 .* never decides"):
        Router(rule(confidence >= 0.5, to="a"), rule(confidence >= 0.85, to="b"), otherwise="c")


def test_a_rule_covered_by_several_is_refused() -> None:
    with pytest.raises(InvalidInput, match="rule 3"):
        Router(
            rule(confidence >= 0.5, to="a"),
            rule(confidence < 0.6, to="b"),
            rule((confidence > 0.4) & (confidence < 0.7), to="c"),
            otherwise="d",
        )


def test_a_gap_without_otherwise_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no rule fits"):
        Router(rule(confidence > 0.5, to="a"), rule(confidence < 0.5, to="b"))
    Router(rule(confidence >= 0.5, to="a"), rule(confidence < 0.5, to="b"))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (confidence <= 0.6, confidence >= 0.4, "0.4"),
        (field("kind").one_of("a", "b"), field("kind").one_of("b", "c"), "'b'"),
        (field("name") <= "m", field("name") >= "k", "'k'"),
    ],
)
def test_an_overlap_where_neither_rule_is_the_narrower_is_refused(one: Condition, other: Condition, both: str) -> None:
    with pytest.raises(InvalidInput, match=f"rules 1 .* and 2 .* overlap: both fit .*{both}"):
        Router(rule(one, to="a"), rule(other, to="b"), otherwise="c")
    Router(rule(one, to="a"), rule(other, to="a"), otherwise="c")


def test_rules_over_different_fields_may_overlap() -> None:
    router = Router(rule(field("vip") == True, to="human"), rule(confidence >= 0.5, to="auto"), otherwise="review")  # noqa: E712
    assert router.decide({"vip": True, "confidence": 0.9}).to == "human"


@pytest.mark.parametrize("mark", [1e17, -1e17, 0, 10**30, "m"])
def test_two_halves_leave_no_gap(mark: float | str) -> None:
    router = Router(rule(field("n") >= mark, to="up"), rule(field("n") < mark, to="down"))
    assert router.decide({"n": mark}).to == "up"
    with pytest.raises(InvalidInput, match="no rule fits"):
        Router(rule(field("n") > mark, to="up"))


def test_true_and_false_leave_no_gap() -> None:
    router = Router(rule(field("vip") == True, to="a"), rule(field("vip") == False, to="b"))  # noqa: E712
    assert router.decide({"vip": False}).to == "b"


@pytest.mark.parametrize("value", [["x"], {"a": 1}, float("nan"), object()])
def test_a_field_is_compared_with_plain_values(value: object) -> None:
    for build in (lambda: field("a") == value, lambda: field("a").one_of("x", value)):
        with pytest.raises(InvalidInput, match="compared with text"):
            build()
    with pytest.raises(InvalidInput, match="one of what"):
        field("a").one_of()


def test_a_field_that_holds_another_is_no_value() -> None:
    with pytest.raises(InvalidInput, match=r"'a' cannot be a value and hold 'a\.b'"):
        Router(rule(field("a") == 1, to="a"), rule(field("a.b") == 2, to="b"), otherwise="c")


def test_conditions_over_several_and_nested_fields() -> None:
    router = Router(
        rule((confidence >= 0.9) & (field("order.amount") < 100), to="auto"),
        rule(field("language").one_of("de", "en"), to="review"),
        otherwise="human",
    )
    assert router.decide({"confidence": 0.95, "order": {"amount": 5}}).to == "auto"
    assert router.decide({"confidence": 0.95, "order": {"amount": 500}, "language": "de"}).to == "review"
    assert router.decide({"confidence": 0.95, "order": {"amount": 500}, "language": "fr"}).to == "human"


def test_and_instead_of_ampersand_is_refused() -> None:
    with pytest.raises(InvalidInput, match="&"):
        rule((confidence > 0.5) and (confidence < 0.7), to="a")


def test_without_a_fitting_rule_or_otherwise_the_decision_says_what_is_missing() -> None:
    router = Router(rule(confidence >= 0.5, to="a"), rule(confidence < 0.5, to="b"))
    with pytest.raises(NoRoute, match="confidence is missing"):
        router.decide({})
