"""``publish``: one event from the command line, or many from stdin."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.exits import FAILED
from spine.cli.options import Format, Namespace, Output, Url
from spine.cli.output import Events, chosen, fail, say, write_rows
from spine.cli.progress import Progress
from spine.cli.running import PATIENCE_S, execute

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.events import Context, Draft
    from spine.ingest import BadLine, Report

STDIN = "-"


class Lane(StrEnum):
    """The lanes of an event, as words."""

    URGENT = "urgent"
    NORMAL = "normal"
    BACKGROUND = "background"


class Durability(StrEnum):
    """What an acknowledged publish has survived."""

    MEMORY = "memory"
    DISK = "disk"
    REPLICAS = "replicas"


def publish(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the event; - reads whole events.")],
    payload: Annotated[
        str | None, typer.Argument(metavar="[PAYLOAD]", help="The payload as JSON; - reads one a line from stdin.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Unit of order and of state.")] = None,
    to: Annotated[str | None, typer.Option(help="Only into the inbox of this agent.")] = None,
    priority: Annotated[Lane | None, typer.Option(help="The lane.")] = None,
    session: Annotated[str | None, typer.Option(help="Session id of the context.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Correlation id of the context.")] = None,
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
    from spine.client import Spine
    from spine.events import Draft, Priority

    bulk = STDIN in (event_type, payload)
    if bulk and dedupe_key is not None:
        raise typer.BadParameter("--dedupe-key is for one event; lines of stdin bring their own")
    if event_type == STDIN and payload not in (None, STDIN):
        raise typer.BadParameter("with - for the type, whole events come from stdin")
    lane = None if priority is None else Priority[priority.name]
    like = Draft(event_type, {}, key, _context(session, correlation, deadline), lane, to, dedupe_key)

    def client() -> Spine:
        return Spine(url, namespace=namespace, name=source, durability=durability.value, patience_s=PATIENCE_S)

    execute(
        _bulk(client, like, None if event_type == STDIN else event_type, keep_going, chosen(output))
        if bulk
        else _one(client, event_type, like, payload, chosen(output))
    )


def _context(session: str | None, correlation: str | None, deadline_s: float | None) -> Context | None:
    from spine.events import Context

    if session is None and correlation is None and deadline_s is None:
        return None
    deadline = None if deadline_s is None else datetime.now(UTC) + timedelta(seconds=deadline_s)
    return Context(correlation=correlation or "", session_id=session, deadline=deadline)


async def _one(client: Callable[[], Spine], event_type: str, like: Draft, payload: str | None, output: Format) -> None:
    from spine.ingest import draft_of

    draft = draft_of((payload or "{}").encode(errors="surrogateescape"), like, like.name)
    async with client() as spine:
        event = await spine.publish(
            draft.type,
            draft.payload,
            key=draft.key,
            context=draft.context,
            priority=draft.priority,
            to=draft.to,
            dedupe_key=draft.dedupe_key,
        )
    with Events(output) as events:
        events.write(event)


async def _bulk(
    client: Callable[[], Spine], like: Draft, event_type: str | None, keep_going: bool, output: Format
) -> None:
    from spine.ingest import Ingest, lines

    began = time.monotonic()
    async with client() as spine:
        ingest = Ingest(
            spine, like, event_type=like.name if like.name != STDIN else None, on_bad_line=_tell if keep_going else None
        )
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
