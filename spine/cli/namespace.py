"""``namespace``: which ones there are, and deleting one."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from spine.cli.exits import FAILED
from spine.cli.options import Output, Url
from spine.cli.output import chosen, fail, say, write_rows
from spine.cli.progress import Progress
from spine.cli.running import execute

app = typer.Typer(no_args_is_help=True, help="List and delete namespaces.")
# Taken, as by every command; which namespace is meant is said otherwise here.
Unused = Annotated[str | None, typer.Option("--namespace", hidden=True)]
COLUMNS = ("name", "seq", "streams", "agents", "partitions", "created")


@app.command("list")
def list_namespaces(output: Output = None, url: Url = None, namespace: Unused = None) -> None:
    """List the namespaces of the server."""
    from spine.operations.administration import connected, namespaces

    async def run() -> None:
        async with connected(url) as client:
            found = await namespaces(client)
        write_rows(map(msgspec.structs.asdict, found), COLUMNS, chosen(output), nothing="no namespaces")

    execute(run())


@app.command("delete")
def delete(
    name: Annotated[str, typer.Argument(help="The namespace.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = None,
    url: Url = None,
    namespace: Unused = None,
) -> None:
    """Delete a namespace: its log, its states, everything. Stop its workers first."""
    from spine.operations.administration import connected, delete_namespace, summary

    async def run() -> None:
        async with connected(url) as client:
            found = await summary(client, name)
            if not yes and not _agreed(f"Delete namespace {name!r} with its log up to seq {found.seq}?"):
                fail("nothing was deleted", FAILED)
            with Progress("deleting", "keys") as progress:
                deleted = await delete_namespace(client, name, progress.advance)
        write_rows(
            [{"name": name, "seq": found.seq, "deleted_keys": deleted}], ("name", "deleted_keys"), chosen(output)
        )

    execute(run())


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        say(f"{question} Nobody to ask: --yes says so.")
        return False
    return typer.confirm(question, err=True)
