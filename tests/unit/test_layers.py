"""Imports go up the table of docs/architecture.md: no layer knows of one below it there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| [a-z]+ \| ([^|]+) \|", re.MULTILINE)
# memory:// is for tests, and loaded where a URL says so.
ALLOWED = {(module, "spine.testing.memory") for module in ("spine.connection", "spine.server_url")}


def layers() -> dict[str, int]:
    rows = ROW.findall((ROOT / "docs/architecture.md").read_text())[1:]
    return {
        "spine." + name.strip("/").replace("/", "."): place
        for place, row in enumerate(rows)
        for name in re.findall("`([^`]+)`", row)
    }


def layer_of(module: str, known: dict[str, int]) -> int:
    while module not in known:
        module, dot, _ = module.rpartition(".")
        assert dot, "a module that is in no layer of docs/architecture.md"
    return known[module]


def modules() -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "spine").rglob("*.py"))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return sorted(name for name in names if name not in {"spine", "spine.__main__"})


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "spine":
            yield from (f"spine.{alias.name}" for alias in node.names if alias.name.islower())  # not the public names
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from imported(node)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_of_its_own_layer_and_those_above_it(module: str) -> None:
    known = layers()
    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    wanted = {name for name in imported(ast.parse(source.read_text())) if name.startswith("spine.")}
    below = {name for name in wanted if layer_of(name, known) > layer_of(module, known)}
    assert {(module, name) for name in below} <= ALLOWED
