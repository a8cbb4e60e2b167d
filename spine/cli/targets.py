"""The agents and projections that a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spine.cli.exits import NO_TARGET
from spine.cli.output import fail

if TYPE_CHECKING:
    from spine.operations.targets import Kind


def loaded(targets: list[str], app_dir: Path) -> list[Kind]:
    """Return the classes that `targets` name; where one cannot be imported the command ends with 3."""
    if not targets:
        return []
    from spine.operations.targets import TargetError, load

    try:
        return [load(target, app_dir) for target in targets]
    except TargetError as error:
        fail(str(error), NO_TARGET)
