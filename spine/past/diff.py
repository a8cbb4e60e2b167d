"""What differs between two states, by path; and which events of a fold made the difference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from pydantic import BaseModel

from spine.state import dumped

Path = tuple[str | int, ...]
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value that differs.

    Attributes:
        path: where, from the state down: names and places in lists.
        before: the value on one side; left out where there is none.
        after: the value on the other side; left out where there is none.
    """

    path: Path
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET

    def touches(self, other: Difference) -> bool:
        """Tell whether one of the two paths lies within the other."""
        return all(mine == theirs for mine, theirs in zip(self.path, other.path, strict=False))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values, the path as text."""
        both = {"before": self.before, "after": self.after}
        return {"path": shown(self.path), **{name: value for name, value in both.items() if value is not msgspec.UNSET}}


def differences(before: Any, after: Any) -> list[Difference]:
    """Return what differs between two states (or two values as JSON has them), deepest paths that tell it all."""
    return list(_differences(_plain(before), _plain(after), ()))


def shown(path: Path) -> str:
    """Return a path as text, as in ``slots[2].room``; names that are no words stand in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, str) and _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{msgspec.json.encode(part).decode()}]"
    return text


def _plain(state: Any) -> Any:
    return dumped.shown(dumped.dump(state)) if isinstance(state, BaseModel) else state


def _differences(before: Any, after: Any, path: Path) -> Iterator[Difference]:
    if before == after and type(before) is type(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(before.get(name, msgspec.UNSET), after.get(name, msgspec.UNSET), (*path, name))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            ours, theirs = (side[place] if place < len(side) else msgspec.UNSET for side in (before, after))
            yield from _differences(ours, theirs, (*path, place))
    else:
        yield Difference(path=path, before=before, after=after)
