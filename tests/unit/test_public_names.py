"""The public names are a contract: all of them are there, and what is not in use is not imported."""

from __future__ import annotations

import subprocess
import sys

import spine


def test_every_public_name_is_there() -> None:
    for name in spine.__all__:
        assert getattr(spine, name) is not None


def test_every_public_name_has_one_home() -> None:
    assert sorted(spine.__all__) == sorted(spine._HOME)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(spine, "nothing_of_this_name")


def test_importing_spine_imports_neither_the_command_line_nor_settings() -> None:
    heavy = ("typer", "rich", "pydantic_settings", "fakeredis", "uvloop")
    code = f"import spine, sys; spine.Spine; spine.Agent; print(*(name for name in {heavy} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []
