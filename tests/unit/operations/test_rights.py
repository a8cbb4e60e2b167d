"""The rights that doctor looks for are those that spine uses."""

from __future__ import annotations

import re
from pathlib import Path

import spine
from spine.keys import Keys
from spine.operations.rights import needed

SOURCES = Path(spine.__file__).parent
IN_LUA = re.compile(r"(?:redis\.p?call|\bcall)\('([A-Z]+)'")
IN_PYTHON = re.compile(r"\b(?:commands?|call)\(\s*\(?\"([A-Z]+)\"")
# Each is asked for only where it is there and permitted, or was looked at by then.
NOT_NEEDED = {"CONFIG", "PING", "DISCARD"}


def test_every_command_that_spine_calls_is_looked_at() -> None:
    called = set()
    for pattern, suffix in ((IN_LUA, "lua"), (IN_PYTHON, "py")):
        for file in SOURCES.rglob(f"*.{suffix}"):
            called |= set(pattern.findall(file.read_text()))
    assert len(called) > 40
    assert called - NOT_NEEDED <= {command[0] for command in needed(Keys("acme"))}
