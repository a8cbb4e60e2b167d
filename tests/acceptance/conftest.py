"""What every acceptance test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spine_command import Cli


@pytest.fixture
def cli(url: str, namespace: str, tmp_path: Path) -> Iterator[Cli]:
    """The command, in an empty directory."""
    running = Cli(url, namespace, tmp_path)
    try:
        yield running
    finally:
        running.end()
