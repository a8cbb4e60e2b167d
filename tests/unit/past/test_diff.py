"""What differs between two states is all that it takes to make one of the other."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from spine.past.diff import Difference, differences, shown

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy", max_size=2), inner, max_size=3),
    max_leaves=8,
)
states = st.dictionaries(st.text("xyz", max_size=2), values, max_size=4)


def patched(value: Any, found: list[Difference]) -> Any:
    """Return `value` with the differences put in."""
    value = msgspec.json.decode(msgspec.json.encode(value))
    for one in reversed(found):  # what is cut off a list goes from its end
        if not one.path:
            return one.after
        inner = value
        for part in one.path[:-1]:
            inner = inner[part]
        last: Any = one.path[-1]
        if one.after is msgspec.UNSET:
            del inner[last]
        elif isinstance(inner, list) and last >= len(inner):
            inner += [None] * (last + 1 - len(inner))
            inner[last] = one.after
        else:
            inner[last] = one.after
    return value


@given(states, states)
def test_the_differences_make_one_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = differences(before, after)
    made = patched(before, found)
    assert msgspec.json.encode(made, order="sorted") == msgspec.json.encode(after, order="sorted")
    assert bool(found) == (msgspec.json.encode(before, order="sorted") != msgspec.json.encode(after, order="sorted"))


def test_paths_are_told_as_one_would_write_them() -> None:
    assert shown(("slots", 2, "room")) == "slots[2].room"
    assert shown(("by type", "money.in", 'a"b')) == '["by type"]["money.in"]["a\\"b"]'
    assert shown(()) == ""


def test_a_state_is_compared_as_it_is_stored() -> None:
    class State(BaseModel):
        names: set[str] = set()
        day: int = 1

    (one,) = differences(State(names={"b"}), State(names={"b", "a"}, day=1))[:1]
    assert one.to_dict() == {"path": "names[0]", "before": "b", "after": "a"}
    whole = Difference(path=("names",), before=1, after=2)
    assert whole.touches(one)
    assert one.touches(whole)
    assert not one.touches(Difference(path=("day",)))
