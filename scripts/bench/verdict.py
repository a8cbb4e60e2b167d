"""From samples to the lines of the table; nothing here runs anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scripts.bench.figures import Claim, Figure, Reading
from scripts.bench.rounds import Outcomes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim, judged."""

    figure: str
    title: str
    value: Reading
    beside: Reading | None
    measured: float | None
    """Median of the value over the rounds."""
    against: float | None
    """Median of what it is held against."""
    ratio: float | None
    """Median over the rounds of value / beside in the same round; the value itself where nothing is beside."""
    spread: tuple[float, float] | None
    """Lowest and highest ratio of a round."""
    operator: str
    target: float | None
    reached: bool | None
    """None without a target or without a measurement."""
    note: str


def judge(figures: Sequence[Figure], outcomes: Outcomes) -> list[Row]:
    """One row per claim, in the order of the table."""
    return [_row(figure, claim, outcomes) for figure in figures for claim in figure.claims]


def _row(figure: Figure, claim: Claim, outcomes: Outcomes) -> Row:
    values = _values(claim.value, outcomes)
    others = _values(claim.beside, outcomes) if claim.beside else []
    ratios = _ratios(values, others) if claim.beside else values
    ratio = median(ratios) if ratios else None
    return Row(
        figure=figure.name,
        title=figure.title,
        value=claim.value,
        beside=claim.beside,
        measured=median(values) if values else None,
        against=median(others) if others else None,
        ratio=ratio,
        spread=(min(ratios), max(ratios)) if ratios else None,
        operator=claim.operator,
        target=claim.target,
        reached=_reached(ratio, claim),
        note=claim.note,
    )


def _values(reading: Reading, outcomes: Outcomes) -> list[float]:
    samples = (outcome.sample for outcome in outcomes.get(reading.arm, ()))
    return [sample[reading.metric] for sample in samples if sample and reading.metric in sample]


def _ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=False) if other]


def _reached(ratio: float | None, claim: Claim) -> bool | None:
    if ratio is None or claim.target is None:
        return None
    return ratio >= claim.target if claim.operator == ">=" else ratio <= claim.target
