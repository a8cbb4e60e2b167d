"""Routing by confidence: rules declared once, checked when they are built, and each decision with its reason.

    router = Router(
        rule(confidence >= 0.85, to="auto"),
        rule(confidence >= 0.5, to="review"),
        otherwise="human",
    )
    ctx.route(router)          # hands the work to the agent decided on; the reason travels with it

Rules are read from top to bottom; the first that holds decides.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from spine.errors import InvalidInput, NoRoute
from spine.events import Payload
from spine.names import check_agent_name

MAX_CELLS = 100_000

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
_MISSING = object()

Scale = tuple[float, float]


class Condition:
    """What must hold for a rule; join several with ``&`` and ``|``.

    Attributes:
        text: as it is written, for people.
        test: tells whether it holds for a payload.
        marks: field → the values that it is compared with.
        scales: field → the least and the greatest value that it can have, where these are known.
    """

    def __init__(
        self, text: str, test: Callable[[Mapping[str, Any]], bool], marks: dict[str, set[Any]], scales: dict[str, Scale]
    ) -> None:
        self.text = text
        self.test = test
        self.marks = marks
        self.scales = scales

    def __and__(self, other: Condition) -> Condition:
        return Condition(
            f"({self.text} and {other.text})",
            lambda values: self.test(values) and other.test(values),
            _joined(self.marks, other.marks),
            self.scales | other.scales,
        )

    def __or__(self, other: Condition) -> Condition:
        return Condition(
            f"({self.text} or {other.text})",
            lambda values: self.test(values) or other.test(values),
            _joined(self.marks, other.marks),
            self.scales | other.scales,
        )

    def __bool__(self) -> bool:
        raise InvalidInput("join conditions with & and |, not with and / or, and chain no comparisons (a < b < c)")

    def __repr__(self) -> str:
        return self.text


class Field:
    """A field of the payload (``"a.b"`` reaches into it) to compare with a value: ``field("amount") >= 100``.

    Where it has a `scale`, a number outside of it is a mistake, and fits no rule.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, scale: Scale | None = None) -> None:
        self.name = name
        self.scale = scale

    def __ge__(self, value: Any) -> Condition:
        return self._compare(">=", value)

    def __gt__(self, value: Any) -> Condition:
        return self._compare(">", value)

    def __le__(self, value: Any) -> Condition:
        return self._compare("<=", value)

    def __lt__(self, value: Any) -> Condition:
        return self._compare("<", value)

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        return self._compare("==", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        return self._compare("!=", value)

    def one_of(self, *values: Any) -> Condition:
        """Hold when the field is one of `values`."""
        wanted = list(values)
        if not wanted:
            raise InvalidInput(f"{self.name} one of what? Name at least one value.")
        one_by_one = [self._compare("==", value) for value in wanted]
        return Condition(
            f"{self.name} one of {', '.join(map(repr, wanted))}",
            lambda values: any(one.test(values) for one in one_by_one),
            _joined(*(one.marks for one in one_by_one)),
            self._scales,
        )

    def _compare(self, sign: str, value: Any) -> Condition:
        self._check(value)
        compare = _COMPARE[sign]

        def test(actual: Any) -> bool:
            if isinstance(actual, bool) != isinstance(value, bool):  # to Python True is 1
                return sign == "!="
            try:
                return bool(compare(actual, value))
            except TypeError:
                return False

        def holds(values: Mapping[str, Any]) -> bool:
            actual = _get(values, self.name)
            return actual is not _MISSING and self._is_usable(actual) and test(actual)

        return Condition(f"{self.name} {sign} {value!r}", holds, {self.name: {value}}, self._scales)

    @property
    def _scales(self) -> dict[str, Scale]:
        return {} if self.scale is None else {self.name: self.scale}

    def _is_usable(self, value: Any) -> bool:
        """Tell whether `value` can be compared at all: NaN and what is off the scale cannot."""
        if self.scale is None:
            return bool(value == value)
        least, most = self.scale
        try:
            return not isinstance(value, bool) and bool(least <= value <= most)
        except TypeError:
            return False

    def _check(self, value: Any) -> None:
        if not isinstance(value, str | int | float | bool | None) or value != value:
            raise InvalidInput(f"a field is compared with text, a number, True, False or None, not with {value!r}")
        if not self._is_usable(value):
            assert self.scale is not None
            least, most = self.scale
            raise InvalidInput(
                f"{self.name} goes from {least:g} to {most:g} and is never {value!r}; use field({self.name!r}) for "
                "another scale"
            )


def field(name: str) -> Field:
    """Return the field `name` of the payload, to build conditions from."""
    return Field(name)


confidence = Field("confidence", (0.0, 1.0))


class Rule(msgspec.Struct, frozen=True):
    """Where work goes when a condition holds."""

    condition: Condition
    to: str


def rule(condition: Condition, *, to: str) -> Rule:
    """Return the rule that sends work to agent `to` when `condition` holds."""
    if not isinstance(condition, Condition):
        raise InvalidInput(f"a rule needs a condition like confidence >= 0.85, not {condition!r}")
    return Rule(condition, check_agent_name(to))


class Decision(msgspec.Struct, frozen=True):
    """Where work goes, and why.

    Attributes:
        to: the agent.
        rule: the rule that held, or ``otherwise``.
        reason: the rule with the values found, for people.
    """

    to: str
    rule: str
    reason: str


class Router:
    """Decides where work goes.

    Args:
        rules: read from top to bottom.
        otherwise: the agent for what no rule fits, and for payloads that lack the fields.

    Raises `InvalidInput` when a rule can never decide because those above it cover it, when two rules over the same one
    field send some of its values to different agents and neither is the narrower, and when there is no `otherwise` and
    some values fit no rule.
    """

    def __init__(self, *rules: Rule, otherwise: str | None = None) -> None:
        if not rules:
            raise InvalidInput("a router needs at least one rule")
        self.rules = rules
        self.otherwise = None if otherwise is None else check_agent_name(otherwise)
        self._check()

    def decide(self, payload: Payload) -> Decision:
        """Return where work with this payload goes. Raises `NoRoute` when nothing fits."""
        values = payload.model_dump() if isinstance(payload, BaseModel) else payload
        for one in self.rules:
            if one.condition.test(values):
                return Decision(one.to, one.condition.text, f"{one.condition.text} ({_found(values, one)})")
        if self.otherwise is None:
            raise NoRoute(f"no rule fits {_found(values, *self.rules)}: give the router an otherwise=")
        return Decision(self.otherwise, "otherwise", f"no rule fits ({_found(values, *self.rules)})")

    def _check(self) -> None:
        """Try every combination of values that any rule could tell apart."""
        marks = _joined(*(one.condition.marks for one in self.rules))
        _check_nesting(marks)
        scales = {name: scale for one in self.rules for name, scale in one.condition.scales.items()}
        cells = [_cells(found, scales.get(name)) for name, found in marks.items()]
        if math.prod(map(len, cells)) > MAX_CELLS:
            raise InvalidInput(
                f"these rules tell {math.prod(map(len, cells)):,} cases apart, too many to check; split the router"
            )
        decides: set[int] = set()
        fits: set[int] = set()
        gap: dict[str, Any] | None = None
        for combination in itertools.product(*cells):
            values = _nested(zip(marks, combination, strict=True))
            fitting = [place for place, one in enumerate(self.rules) if one.condition.test(values)]
            decides.update(fitting[:1])
            fits.update(fitting)
            if not fitting and gap is None:
                gap = values
        for place, one in enumerate(self.rules):
            if place not in decides:
                why = "the rules above cover it" if place in fits else "nothing fits it"
                raise InvalidInput(f"rule {place + 1} ({one.condition.text}) never decides: {why}")
        self._check_overlaps()
        if gap is not None and self.otherwise is None:
            raise InvalidInput(f"no rule fits {gap}: add a rule or otherwise=")

    def _check_overlaps(self) -> None:
        """Refuse two rules over one field where it is chance which of them is meant: neither lies within the other."""
        for (i, one), (j, other) in itertools.combinations(enumerate(self.rules, 1), 2):
            if one.to == other.to or one.condition.marks.keys() != other.condition.marks.keys():
                continue
            if len(one.condition.marks) > 1:
                continue
            ((name, marks),) = _joined(one.condition.marks, other.condition.marks).items()
            tried = [_nested([(name, value)]) for value in _cells(marks, one.condition.scales.get(name))]
            fits = [(one.condition.test(values), other.condition.test(values)) for values in tried]
            if {(True, True), (True, False), (False, True)} <= set(fits):
                raise InvalidInput(
                    f"rules {i} ({one.condition.text}) and {j} ({other.condition.text}) overlap: both fit "
                    f"{tried[fits.index((True, True))]}, and neither is the narrower. Say where the one ends."
                )


def _check_nesting(names: Iterable[str]) -> None:
    for name in names:
        inner = next((other for other in names if other.startswith(f"{name}.")), None)
        if inner is not None:
            raise InvalidInput(f"{name!r} cannot be a value and hold {inner!r} as well")


def _cells(marks: set[Any], scale: Scale | None) -> list[Any]:
    """Return values of a field such that the rules tell no others apart: each mark, between them, and beyond."""
    cells: list[Any] = []
    numbers = sorted(mark for mark in marks if isinstance(mark, int | float) and not isinstance(mark, bool))
    if numbers:
        least, most = scale or (numbers[0] - max(1, abs(numbers[0])), numbers[-1] + max(1, abs(numbers[-1])))
        numbers = sorted({least, *numbers, most})
        cells += [*numbers, *((low + high) / 2 for low, high in itertools.pairwise(numbers))]
    texts = sorted(mark for mark in marks if isinstance(mark, str))
    if texts:
        cells += dict.fromkeys(["", *(text + after for text in texts for after in ("", "\0"))])
    if any(isinstance(mark, bool) for mark in marks):
        cells += [True, False]
    if None in marks:
        cells += [None, "another value"]
    return cells


def _joined(*marks: dict[str, set[Any]]) -> dict[str, set[Any]]:
    joined: dict[str, set[Any]] = {}
    for one in marks:
        for name, values in one.items():
            joined.setdefault(name, set()).update(values)
    return joined


def _get(values: Mapping[str, Any], name: str) -> Any:
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        *outer, last = name.split(".")
        place = values
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return values


def _found(values: Mapping[str, Any], *rules: Rule) -> str:
    names = _joined(*(one.condition.marks for one in rules))
    shown = []
    for name in names:
        value = _get(values, name)
        shown.append(f"{name} is missing" if value is _MISSING else f"{name} is {value!r}")
    return ", ".join(shown)
