"""``metrics``: what one watches all the time, for Prometheus."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.exits import DONE, FAILED
from spine.cli.options import Namespace, Url
from spine.cli.output import fail, say
from spine.cli.running import execute, opened

if TYPE_CHECKING:
    from spine.client import Spine

READ_S = 5.0


def metrics(
    listen: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Serve them at http://HOST:PORT/metrics, until Ctrl-C."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", hidden=True)] = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show lag, workers, dead letters, held keys and leases in the text format of Prometheus.

    spine metrics --listen 0.0.0.0:9464
    """
    from spine.operations.metrics import exposition

    if output is not None:
        raise typer.BadParameter("metrics are written in the text format of Prometheus")
    place = None if listen is None else _place(listen)

    async def run() -> None:
        async with opened(url, namespace) as spine:
            if place is None:
                sys.stdout.write(await exposition(spine))
                return
            await _serve(spine, *place)

    execute(run(), interrupted=DONE)


def _place(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(f"{listen!r} is no place to listen at: 9464, or 0.0.0.0:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


async def _serve(spine: Spine, host: str, port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_S):
                request = (await reader.readuntil(b"\r\n\r\n")).split()
            writer.write(await _response(spine, request))
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that does not ask, or does not wait for the answer
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, host, port)
    except OSError as error:
        fail(f"cannot listen at {host}:{port}: {error.strerror or error}", FAILED)
    shown = server.sockets[0].getsockname()
    say(f"metrics at http://{shown[0]}:{shown[1]}/metrics; Ctrl-C ends it")
    async with server:
        await server.serve_forever()


async def _response(spine: Spine, request: list[bytes]) -> bytes:
    """Return the answer to an HTTP request: an error of spine is a 503, so that a scrape of it fails."""
    from spine.errors import SpineError
    from spine.operations.metrics import CONTENT_TYPE, exposition

    if request[:1] != [b"GET"] or request[1].partition(b"?")[0] != b"/metrics":
        return _http("404 Not Found", "text/plain", "GET /metrics\n")
    try:
        return _http("200 OK", CONTENT_TYPE, await exposition(spine))
    except SpineError as error:
        return _http("503 Service Unavailable", "text/plain", f"{error}\n")


def _http(status: str, kind: str, text: str) -> bytes:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
