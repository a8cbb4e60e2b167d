"""What starting costs: the import of the library, the first line of the command's help.

Compiled, as an installed package is, also where the environment keeps Python from writing what it compiled.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from scripts.bench.arm import Sample, Setup, arm

TIMED = "import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"


async def _seconds(statement: str, times: int) -> float:
    """Median over some fresh interpreters; the first one, which may compile, is not counted."""
    command = (sys.executable, "-c", TIMED.format(statement=statement))
    with tempfile.TemporaryDirectory() as compiled:
        seconds = [float(await _output(compiled, *command)) for _ in range(times + 1)]
    return median(seconds[1:])


async def _output(compiled: str, *command: str) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode().strip().splitlines()[-1])
    return output.decode()


@arm("raw.import", server=None, packages=("redis", "pydantic", "msgpack"), count=9, quick=3)
async def import_parts(setup: Setup) -> Sample:
    """What the spine cannot do without."""
    return {"seconds": await _seconds("import redis.asyncio, pydantic, msgpack", setup.count)}


@arm("spine.import", server=None, count=9, quick=3)
async def import_spine(setup: Setup) -> Sample:
    """`import spine`, and with it the names that a service needs: they are imported when they are first asked for."""
    return {
        "seconds": await _seconds("import spine", setup.count),
        "names_seconds": await _seconds("from spine import Spine, Agent", setup.count),
    }


@arm("spine.help", server=None, count=9, quick=3)
async def show_help(setup: Setup) -> Sample:
    """`spine --help`, the process and all."""
    command = Path(sys.executable).with_name("spine")
    times = []
    with tempfile.TemporaryDirectory() as compiled:
        for _ in range(setup.total):
            start = time.monotonic()
            await _output(compiled, str(command), "--help")
            times.append(time.monotonic() - start)
    return {"seconds": median(times[setup.warmup :])}
