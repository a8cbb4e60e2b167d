"""What a reducer touches besides what it was given: the outside, the clock, chance, and objects that others share."""

from __future__ import annotations

import builtins
import io
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from datetime import date, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from functools import partial
from inspect import unwrap
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from pydantic import BaseModel

_IO = ("socket.", "subprocess.", "os.", "shutil.", "sqlite3.", "urllib.", "ftplib.", "smtplib.", "time.sleep")
_SOURCES = (".py", ".pyc")
_CLOCKS = frozenset(
    getattr(time, f"{name}{unit}")
    for name in ("time", "monotonic", "perf_counter", "process_time")
    for unit in ("", "_ns")
)
_ENVIRONMENT: CodeType = type(os.environ).__getitem__.__code__
_MOST = 1_000
_DEEPEST = 6

_watching: list[set[str]] = []
_hooked = False


# --- the outside, the clock, chance ---


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collect in words what is touched meanwhile: Python tells of it by its audit events and its profiler's."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    seen: set[str] = set()
    _watching.append(seen)
    before = sys.getprofile()
    sys.setprofile(_profile)
    try:
        yield seen
    finally:
        sys.setprofile(before)
        _watching.pop()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    opened = event == "open" and not str(args[0]).endswith(_SOURCES)
    if opened or event.startswith(_IO):
        _watching[-1].add(f"does I/O: {event}")


def _profile(frame: FrameType, event: str, called: Any) -> None:
    if event == "c_call" and isinstance(called, BuiltinFunctionType):
        said = _said_of(called)
    elif event == "call" and frame.f_code is _ENVIRONMENT:
        said = "reads the environment: os.environ"
    else:
        return
    if said is not None:
        _watching[-1].add(said)


def _said_of(called: BuiltinFunctionType) -> str | None:
    owner, name = called.__self__, called.__name__
    if called in _CLOCKS:
        return f"reads the clock: time.{name}"
    if isinstance(owner, type) and issubclass(owner, date) and name in ("now", "utcnow", "today"):
        return f"reads the clock: {owner.__name__}.{name}"
    if owner is _CHANCE:
        return f"uses chance: random.{name}"
    if called is os.urandom:
        return "uses chance: os.urandom"
    if called in (builtins.print, builtins.input):
        return f"does I/O: {name}"
    if isinstance(owner, io.TextIOWrapper | io.FileIO) and name in ("write", "read", "readline"):
        return f"does I/O: {name}"
    return "starts a thread" if called is _START_THREAD else None


_CHANCE = random.random.__self__  # type: ignore[attr-defined]  # what the functions of the module draw from
_START_THREAD = threading._start_new_thread  # type: ignore[attr-defined]


# --- shared objects ---


class Shared:
    """The objects that a reducer can reach by name: what its module, its class, its closure and `self` hold.

    Only what belongs to the reducer's own package is looked into; of a large object its size is seen.

    Args:
        function: the reducer.
        owner: the class that it belongs to.
        itself: what it gets for `self`.
    """

    def __init__(self, function: Callable[..., Any], owner: type, itself: Any) -> None:
        self._package = function.__module__.partition(".")[0]
        self._places: dict[str, Callable[[], Any]] = {"self": lambda: vars(itself)}
        self._followed: set[Any] = set()
        self._follow(function)
        for base in owner.__mro__:
            self._follow_class(base, _names(unwrap(function).__code__))

    def look(self) -> dict[str, Any]:
        """Return what the objects are like now, by their names."""
        return {name: self._likeness(get(), 0) for name, get in self._places.items()}

    def _is_ours(self, thing: Any) -> bool:
        return str(getattr(thing, "__module__", "")).partition(".")[0] == self._package

    def _follow(self, function: Any) -> None:
        function = unwrap(function)
        if not isinstance(function, FunctionType) or function in self._followed or not self._is_ours(function):
            return
        self._followed.add(function)
        names = _names(function.__code__)
        self._follow_names("", function.__globals__, names)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._note(name, partial(getattr, cell, "cell_contents", None), names)

    def _follow_class(self, kind: type, names: set[str]) -> None:
        if kind not in self._followed and self._is_ours(kind):
            self._followed.add(kind)
            self._follow_names(f"{kind.__name__}.", vars(kind), names)

    def _follow_module(self, module: ModuleType, names: set[str]) -> None:
        if module not in self._followed and module.__name__.partition(".")[0] == self._package:
            self._followed.add(module)
            self._follow_names(f"{module.__name__}.", vars(module), names)

    def _follow_names(self, prefix: str, place: Mapping[str, Any], names: set[str]) -> None:
        for name in names & place.keys():
            if not name.startswith("__"):
                self._note(prefix + name, partial(place.get, name), names)

    def _note(self, label: str, get: Callable[[], Any], names: set[str]) -> None:
        value = get()
        if isinstance(value, type):
            self._follow_class(value, names)
        elif isinstance(value, ModuleType):
            self._follow_module(value, names)
        elif callable(value):
            self._follow(value)
        else:
            self._places[label] = get

    def _likeness(self, value: Any, depth: int) -> Any:
        """Return something that is equal as long as `value` is unchanged."""
        if isinstance(value, Sized) and not isinstance(value, str) and len(value) > _MOST:
            return len(value)
        if depth > _DEEPEST:
            return None
        if isinstance(value, dict):
            return [(repr(name), self._likeness(inner, depth + 1)) for name, inner in value.items()]
        if isinstance(value, list | tuple | deque):
            return [self._likeness(inner, depth + 1) for inner in value]
        if isinstance(value, _SHOWN):
            return repr(value)
        if isinstance(value, BaseModel) or self._is_ours(type(value)):
            return self._likeness(getattr(value, "__dict__", None), depth + 1)
        return id(value)


_SHOWN = (str, bytes, bytearray, int, float, type(None), date, time_of_day, timedelta, Decimal, Enum, set, frozenset)


def _names(code: CodeType) -> set[str]:
    """Return the names that code uses, with those of the functions in it."""
    found = {*code.co_names}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _names(inner)
    return found
