"""``bench``: what the user's own server does for the spine."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from spine.cli.options import Durability, Output, Url
from spine.cli.output import chosen, write_rows
from spine.cli.progress import Progress
from spine.cli.running import execute

if TYPE_CHECKING:
    from spine.operations.measure import Figure

COLUMNS = ("what", "count", "per_s", "p50_ms", "p99_ms", "p999_ms")
FIGURES = 8


def bench(
    events: Annotated[int, typer.Option("--events", "-n", min=100, max=1_000_000, help="How many events.")] = 20_000,
    size: Annotated[int, typer.Option(min=0, max=500_000, help="Bytes of each payload.")] = 200,
    in_flight: Annotated[int, typer.Option(min=1, max=10_000, help="Publishes or requests awaited at once.")] = 256,
    durability: Annotated[
        Durability, typer.Option(help="What an acknowledged publish has survived.")
    ] = Durability.MEMORY,
    output: Output = None,
    url: Url = None,
    _namespace: Annotated[str | None, typer.Option("--namespace", hidden=True)] = None,  # taken, as by every command
) -> None:
    """Measure a server: publish, deliver, request, replay. It writes to a namespace of its own and deletes it again.

    spine bench --url redis://cache:6379 --durability disk
    """
    from spine.operations.administration import connected, delete_namespace
    from spine.operations.measure import measure

    async def run() -> list[Figure]:
        namespace = f"bench-{secrets.token_hex(4)}"
        async with connected(url) as client:
            measuring = measure(
                url, namespace, events=events, size=size, in_flight=in_flight, durability=durability.value
            )
            try:
                with Progress("measuring", "figures", total=FIGURES) as progress:
                    found = []
                    async with aclosing(measuring):
                        async for figure in measuring:
                            found.append(figure)
                            progress.advance(len(found))
                    return found
            finally:
                await delete_namespace(client, namespace)

    write_rows((_row(figure) for figure in execute(run(), fast=True)), COLUMNS, chosen(output))


def _row(figure: Figure) -> dict[str, Any]:
    row = msgspec.structs.asdict(figure)
    row["per_s"] = None if figure.per_s is None else round(figure.per_s)
    for name in COLUMNS[3:]:
        row[name] = None if row[name] is None else round(row[name], 3)
    return row
