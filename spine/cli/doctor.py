"""``doctor``: is the server fit for a log, and is the log sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from spine.cli.exits import CHECK_FAILED
from spine.cli.options import Format, Namespace, Output, Url
from spine.cli.output import chosen, say, stdout, write_rows
from spine.cli.running import execute

if TYPE_CHECKING:
    from spine.operations.doctor import Check


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Take stray entries out of the streams.")] = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Check the server and the log; end with 5 when something is wrong."""
    from spine.client import DEFAULT_NAMESPACE
    from spine.keys import Keys
    from spine.operations.administration import connected
    from spine.operations.doctor import examine
    from spine.operations.strays import find
    from spine.operations.strays import repair as mend

    async def run() -> bool:
        keys = Keys(namespace or DEFAULT_NAMESPACE)
        async with connected(url) as client:
            if repair:
                for sentence in await mend(client, keys, await find(client, keys)):
                    say(sentence)
            checks = [check async for check in examine(client, url or "", keys.namespace)]
        _write(checks, chosen(output))
        return all(check.ok for check in checks)

    if not execute(run()):
        raise typer.Exit(CHECK_FAILED)


def _write(checks: list[Check], output: Format) -> None:
    if output is not Format.TABLE:
        write_rows((msgspec.structs.asdict(check) for check in checks), (), output)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        detail = Text(check.detail)
        if check.remedy:
            detail.append(f"\n→ {check.remedy}", style="yellow")
        table.add_row(Text("ok", style="green") if check.ok else Text("FAILED", style="bold red"), check.name, detail)
    stdout().print(table)
