"""`Projection`: a read model, folded from the log; per key, or one over all keys."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from spine.errors import InvalidInput
from spine.state.fold import Reducing, StateT

Scope = Literal["key", "global"]


class Projection(Reducing[StateT]):
    """A read model: subclass it with a pydantic model, name it, and declare reducers.

    ``await spine.reduce(Bookings)`` folds it at any time, without anything running. A worker that serves it
    (``run(spine, Bookings)``, one at a time) stores it as the log grows, so that reading it is quick, however long the
    log, and so that a trimmed log takes nothing from it. Handlers read it; only its reducers change it.

    Attributes:
        scope: ``key`` for a state of each key, ``global`` for a single one over all keys.
    """

    scope: ClassVar[Scope] = "key"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.scope not in get_args(Scope):
            raise InvalidInput(f"{cls.__name__}: scope is 'key' or 'global', not {cls.scope!r}")


def is_global(kind: type[Reducing[Any]]) -> bool:
    """Tell whether `kind` has one state over all keys."""
    return issubclass(kind, Projection) and kind.scope == "global"
