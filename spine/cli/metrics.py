"""``metrics``: what one watches all the time, for Prometheus."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from spine.cli.exits import DONE, FAILED
from spine.cli.options import Namespace, Url
from spine.cli.output import fail, say
from spine.cli.running import execute, opened


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
    if output is not None:
        raise typer.BadParameter("metrics are written in the text format of Prometheus")
    place = None if listen is None else _place(listen)

    async def run() -> None:
        from prometheus_client import generate_latest, start_http_server

        from spine.operations.metrics import NamespaceCollector, registry_of

        async with opened(url, namespace) as spine:
            registry = registry_of(NamespaceCollector(spine, asyncio.get_running_loop()))
            if place is None:
                sys.stdout.write((await asyncio.to_thread(generate_latest, registry)).decode())
                return
            host, port = place
            try:
                server, thread = start_http_server(port, host, registry)
            except OSError as error:
                fail(f"cannot listen at {host}:{port}: {error.strerror or error}", FAILED)
            shown = server.socket.getsockname()
            say(f"metrics at http://{shown[0]}:{shown[1]}/metrics; Ctrl-C ends it")
            try:
                await asyncio.Event().wait()
            finally:
                server.shutdown()
                server.server_close()
                thread.join()

    execute(run(), interrupted=DONE)


def _place(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(f"{listen!r} is no place to listen at: 9464, or 0.0.0.0:9464")
    return host.strip("[]") or "127.0.0.1", int(port)
