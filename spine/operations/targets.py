"""From ``module:Agent`` on a command line to the agent or projection, with an error that says which part failed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from spine.agent import Agent
from spine.errors import Misconfigured
from spine.state.projection import Projection

Kind = type[Agent[Any]] | type[Projection[Any]]


class TargetError(Misconfigured):
    """The target cannot be imported; the message says which part of it failed and why."""


def load(target: str, app_dir: Path) -> Kind:
    """Return the class of an agent or projection that `target`, as in ``agents.scheduling:Scheduling``, names.

    Modules are looked for in `app_dir` first. Raises `TargetError`.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise TargetError(f"{target!r} is not of the form module:Agent, as in agents.scheduling:Scheduling")
    directory = str(app_dir.resolve())
    if not app_dir.is_dir():
        raise TargetError(f"{target}: the directory {directory} does not exist (--app-dir)")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return _kind(target, _module(target, module_name, directory), attribute)


def _module(target: str, name: str, directory: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise TargetError(
                f"{target}: there is no module {missing!r} in {directory} or on Python's path; --app-dir names another "
                "directory to look in"
            ) from error
        raise TargetError(f"{target}: module {name!r} imports {missing!r}, which is not installed") from error
    except Exception as error:
        raise TargetError(f"{target}: importing module {name!r} failed:\n{_trace(error)}") from error


def _trace(error: Exception) -> str:
    """Return the traceback of `error` without the frames of the import itself."""
    told = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in told.stack if frame.filename != __file__ and "importlib" not in frame.filename]
    told.stack = traceback.StackSummary.from_list(frames)
    return "".join(told.format()).rstrip()


def _kind(target: str, module: Any, attribute: str) -> Kind:
    found = getattr(module, attribute, None)
    if found is None:
        raise TargetError(f"{target}: module {module.__name__!r} has no {attribute!r}; {_kinds_in(module)}")
    if not isinstance(found, type) or not issubclass(found, Agent | Projection):
        kind = type(found).__name__
        raise TargetError(
            f"{target}: {attribute!r} is no subclass of Agent or Projection (it is of type {kind}); {_kinds_in(module)}"
        )
    if not getattr(found, "name", ""):
        raise TargetError(f'{target}: {attribute} has no name; give it one: name = "{attribute.lower()}"')
    return found


def _kinds_in(module: Any) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Agent | Projection) and value.__module__ == module.__name__
    ]
    return f"agents there: {', '.join(names)}" if names else "no agent is defined there"
