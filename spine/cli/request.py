"""``request``: ask, and show the answer."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

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
from spine.cli.options import Format, Namespace, Output, Url
from spine.cli.output import Events, chosen
from spine.cli.running import PATIENCE_S, execute

if TYPE_CHECKING:
    from spine.client import Spine


def request(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="What is asked.")],
    payload: Annotated[str | None, typer.Argument(metavar="[PAYLOAD]", help="The payload as JSON.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="How long to wait.")] = 5.0,
    key: EventKey = None,
    to: To = None,
    priority: PriorityOption = None,
    session: Session = None,
    correlation: EventCorrelation = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the parts of the answer as they come.")] = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Publish a request and show its answer; end with 1 when there is none in time.

    spine request calendar.find_slot '{"day": "friday"}' --timeout 2
    """
    from spine.client import Spine
    from spine.operations.ingest import payload_of

    async def run() -> None:
        options: dict[str, Any] = {
            "timeout": timeout,
            "key": key,
            "context": context_of(session, correlation),
            "priority": priority_of(priority),
            "to": to,
        }
        value = payload_of(json_of(payload))
        async with Spine(url, namespace=namespace, name="cli", patience_s=PATIENCE_S) as spine:
            ask = _ask_for_parts if stream else _ask
            await ask(spine, event_type, value, options, chosen(output))

    execute(run())


async def _ask(spine: Spine, event_type: str, payload: dict[str, Any], options: dict[str, Any], output: Format) -> None:
    answer = await spine.request(event_type, payload, **options)
    with Events(output) as events:
        events.write(answer)


async def _ask_for_parts(
    spine: Spine, event_type: str, payload: dict[str, Any], options: dict[str, Any], output: Format
) -> None:
    with Events(output, live=True) as events:
        async with aclosing(spine.request_stream(event_type, payload, **options)) as parts:
            async for part in parts:
                events.write(part)
