"""A process that does nothing but run agents looks for garbage less often."""

from __future__ import annotations

import gc
import subprocess
import sys

CODE = """
import gc
from spine.cli.running import execute

async def looked_at():
    return gc.get_threshold()[0], gc.get_freeze_count() > 0

print(execute(looked_at(), fast={fast}))
"""


def test_only_a_worker_process_changes_its_collector() -> None:
    def told(fast: bool) -> str:
        command = [sys.executable, "-c", CODE.format(fast=fast)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert told(fast=True) == "(50000, True)"
    assert told(fast=False) == f"({gc.get_threshold()[0]}, False)"
