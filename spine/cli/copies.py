"""``fork``, ``export`` and ``import``: the history of a namespace, in another one or as lines."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from spine.cli.exits import FAILED
from spine.cli.options import MOMENT, Namespace, Output, Url, moment, optional_moment
from spine.cli.output import chosen, fail, say, write_rows
from spine.cli.progress import Progress
from spine.cli.running import PATIENCE_S, execute, opened

STDIO = Path("-")


def fork(
    to: Annotated[str, typer.Argument(metavar="NAMESPACE", help="The new namespace.")],
    at: Annotated[str | None, typer.Option(help=f"Where to fork: {MOMENT} (default: now).")] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Copy the history up to a point into a new namespace; what was open then is delivered again there.

    spine fork --at 1200 what-if
    """
    import msgspec

    point = None if at is None else moment(at)

    async def run() -> None:
        async with opened(url, namespace) as spine:
            with Progress("forking", "events") as progress, _going_on():
                forked = await spine.fork(to, at=point, told=progress.advance)
        row = msgspec.structs.asdict(forked)
        write_rows([row], ("namespace", "at", "events", "open"), chosen(output))
        if forked.sessions:
            say(
                f"{len(forked.sessions):,} sessions are left out: what made them was trimmed, as {forked.sessions[0]!r}"
            )

    execute(run())


@contextmanager
def _going_on() -> Iterator[None]:
    """Say what a Ctrl-C leaves behind."""
    try:
        yield
    except asyncio.CancelledError:
        say("broken off: the new namespace stays closed until the same command is run again, and goes on")
        raise


def export(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to; stdout if left out.")] = STDIO,
    until: Annotated[str | None, typer.Option(help=f"Up to this point: {MOMENT} (default: now).")] = None,
    url: Url = None,
    namespace: Namespace = None,
    output: Annotated[str | None, typer.Option("--output", "-o", hidden=True)] = None,
) -> None:
    """Write the log as lines of JSON, of which `import` makes an equal one.

    spine export --until -2h > log.ndjson
    """
    end = optional_moment(until)
    if output not in (None, "ndjson"):
        raise typer.BadParameter("an export is ndjson")

    async def run() -> None:
        async with opened(url, namespace) as spine:
            last = await spine.head(end)
            to_terminal = file == STDIO and sys.stdout.isatty()
            with Progress("exporting", "lines", total=last, quiet=to_terminal) as progress:
                count = await _write(spine.export(until=last), file, progress)
        say(f"exported {count:,} lines, up to seq {last}")

    execute(run())


async def _write(lines: AsyncGenerator[bytes, None], file: Path, progress: Progress) -> int:
    """Write `lines`; a file gets its name when it is whole."""
    part = file.with_name(f"{file.name}.part")
    out = sys.stdout.buffer if file == STDIO else _opened(part, "wb")
    count = 0
    try:
        async with aclosing(lines):
            async for line in lines:
                out.write(line + b"\n")
                count += 1
                progress.advance(count)
        out.flush()
    finally:
        if file != STDIO:
            out.close()
    if file != STDIO:
        part.replace(file)
    return count


def import_(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where from; stdin if left out.")] = STDIO,
    partitions: Annotated[int | None, typer.Option(min=1, help="Of the new namespace (default: 8).")] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Make a log of the lines of an export, in an empty namespace; seqs, times and contexts stay as they were.

    spine import log.ndjson --namespace copy
    """
    import msgspec

    from spine.errors import InvalidInput
    from spine.operations.transfer import Import

    source = sys.stdin.buffer if file == STDIO else _opened(file, "rb")

    async def run() -> None:
        async with Import(url, namespace=namespace, partitions=partitions, patience_s=PATIENCE_S) as target:
            with source, Progress("importing", "events") as progress, _going_on():
                try:
                    report = await target.load(_lines(source.fileno()), told=progress.advance)
                except InvalidInput as error:  # of the lines, not of how the command is called
                    fail(str(error), FAILED)
        row = {"namespace": target.namespace, **msgspec.structs.asdict(report)}
        write_rows([row], ("namespace", "events", "last_seq", "present"), chosen(output))

    execute(run())


async def _lines(descriptor: int) -> AsyncGenerator[bytes, None]:
    from spine.operations.ingest import lines

    async with aclosing(lines(descriptor)) as batches:
        async for batch in batches:
            for line in batch:
                yield line


def _opened(file: Path, mode: str) -> Any:
    try:
        return file.open(mode)
    except OSError as error:
        fail(f"{file}: {os.strerror(error.errno or 0)}", FAILED)
