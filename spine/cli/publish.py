"""``publish``: one event from the command line, or many from stdin."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.drafts import (
    EventCorrelation,
    EventKey,
    PriorityOption,
    Session,
    To,
    context_of,
    json_of,
    priority_of,
)
from spine.cli.exits import FAILED
from spine.cli.options import Durability, Format, Namespace, Output, Url
from spine.cli.output import Events, chosen, fail, say, write_rows
from spine.cli.progress import Progress
from spine.cli.running import PATIENCE_S, execute

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.events import Draft
    from spine.operations.ingest import BadLine, Report

STDIN = "-"


def publish(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the event; - reads whole events.")],
    payload: Annotated[
        str | None, typer.Argument(metavar="[PAYLOAD]", help="The payload as JSON; - reads one a line from stdin.")
    ] = None,
    key: EventKey = None,
    to: To = None,
    priority: PriorityOption = None,
    session: Session = None,
    correlation: EventCorrelation = None,
    deadline: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Not to be handled later.")] = None,
    dedupe_key: Annotated[str | None, typer.Option(help="A second event under the same one is not stored.")] = None,
    durability: Annotated[Durability, typer.Option(help="What an acknowledged event has survived.")] = (
        Durability.MEMORY
    ),
    source: Annotated[str, typer.Option(help="Who publishes.")] = "cli",
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out bad lines of stdin.")] = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Store one event, or one for each line of stdin.

    spine publish order.placed '{"sku": 7}' --key c-1

    spine publish order.placed - < payloads.ndjson

    spine publish - < events.ndjson    (each line: type, payload and, as needed, key, to, priority, context, dedupe_key)
    """
    from msgspec import structs

    from spine.client import Spine
    from spine.events import Draft
    from spine.operations.ingest import payload_of

    bulk = STDIN in (event_type, payload)
    if bulk and dedupe_key is not None:
        raise typer.BadParameter("--dedupe-key is for one event; lines of stdin bring their own")
    if event_type == STDIN and payload not in (None, STDIN):
        raise typer.BadParameter("with - for the type, whole events come from stdin")
    context = context_of(session, correlation, deadline)
    like = Draft(event_type, {}, key, context, priority_of(priority), to, dedupe_key)

    async def store() -> None:
        spine = Spine(url, namespace=namespace, name=source, durability=durability.value, patience_s=PATIENCE_S)
        if bulk:
            await _bulk(spine, like, None if event_type == STDIN else event_type, keep_going, chosen(output))
        else:
            await _one(spine, structs.replace(like, payload=payload_of(json_of(payload))), chosen(output))

    execute(store())


async def _one(client: Spine, draft: Draft, output: Format) -> None:
    async with client as spine:
        stored = await spine.publish_many([draft])
    with Events(output) as events:
        events.write(stored[0])


async def _bulk(client: Spine, like: Draft, event_type: str | None, keep_going: bool, output: Format) -> None:
    from spine.operations.ingest import Ingest, lines

    began = time.monotonic()
    async with client as spine:
        ingest = Ingest(spine, like, event_type=event_type, on_bad_line=_tell if keep_going else None)
        try:
            with Progress("publishing", "events") as progress:
                async for chunk in lines(sys.stdin.fileno()):
                    await ingest.add(chunk)
                    progress.advance(ingest.report.stored)
        except BaseException:
            _tell_where_it_stopped(ingest.report)
            raise
        finally:
            _summarise(ingest.report, time.monotonic() - began, output)
    if ingest.report.bad_lines:
        fail(f"bad lines left out: {ingest.report.bad_lines:,}", FAILED)


def _tell(bad: BadLine) -> None:
    say(f"left out {bad}")


def _tell_where_it_stopped(report: Report) -> None:
    done = f"stored {report.stored:,} events"
    if report.first_seq is not None:
        done += f", seq {report.first_seq} to {report.last_seq},"
    say(f"{done} of the lines up to {report.lines}")
    if report.uncertain is None:
        say(f"nothing of line {report.lines + 1} or later is stored")
    else:
        say("of the lines {} to {} it is not known whether they are stored".format(*report.uncertain))


def _summarise(report: Report, seconds: float, output: Format) -> None:
    summary = {
        "stored": report.stored,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "lines": report.lines,
        "bad_lines": report.bad_lines,
        "seconds": round(seconds, 3),
    }
    write_rows([summary], list(summary), output)
