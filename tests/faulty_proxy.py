"""A TCP proxy that loses replies, holds back requests and falls silent, as networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class FaultyProxy:
    """Passes everything on, until a request holds a marked text.

    Attributes:
        lost: replies thrown away.
        held: requests held back.
        released: set it to let the requests that were held back go on.
        replied: set once the server has answered a request that was held back.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname, parts.port
        self._lose: dict[bytes, int] = {}
        self._hold: set[bytes] = set()
        self._conversations: set[asyncio.Task[None]] = set()
        self._silences: set[asyncio.Event] = set()
        self.url = ""
        self.lost = 0
        self.held = 0
        self.released = asyncio.Event()
        self.replied = asyncio.Event()

    def lose_reply(self, text: str, times: int = 1) -> None:
        """The server gets a request with `text` and answers; the connection breaks before the answer is through."""
        self._lose[text.encode()] = times

    def hold_request(self, text: str) -> None:
        """The first request with `text` stays on the way until `released` is set, on a connection that stays open."""
        self._hold.add(text.encode())

    def fall_silent(self) -> int:
        """Pass nothing on any more on the connections of now, which stay open; return how many these are."""
        for silence in self._silences:
            silence.set()
        return len(self._silences)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        losing, silence = asyncio.Event(), asyncio.Event()
        self._silences.add(silence)
        back = asyncio.create_task(self._answers(up_reader, writer, losing, silence))
        try:
            while chunk := await reader.read(1 << 20):
                if not silence.is_set():
                    await self._pass_on(chunk, up_reader, up_writer, back, losing)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._silences.discard(silence)
            up_writer.close()
            writer.close()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _pass_on(
        self,
        chunk: bytes,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        back: asyncio.Task[None],
        losing: asyncio.Event,
    ) -> None:
        for text in [text for text in self._hold if text in chunk]:
            self._hold.remove(text)
            self.held += 1
            await self.released.wait()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            up_writer.write(chunk)
            await up_reader.read(1 << 20)
            self.replied.set()
            raise ConnectionResetError
        for text in [text for text, times in self._lose.items() if times and text in chunk]:
            self._lose[text] -= 1
            losing.set()
        up_writer.write(chunk)
        await up_writer.drain()

    async def _answers(
        self,
        up_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        silence: asyncio.Event,
    ) -> None:
        while chunk := await up_reader.read(1 << 20):
            if silence.is_set():
                continue
            if losing.is_set():
                self.lost += 1
                writer.transport.abort()
                return
            writer.write(chunk)
            await writer.drain()
        writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def close(self) -> None:
        """End every conversation."""
        for task in list(self._conversations):
            task.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)


@contextlib.asynccontextmanager
async def faulty_proxy(target: str) -> AsyncIterator[FaultyProxy]:
    """Run a proxy in front of the server at `target`."""
    proxy = FaultyProxy(target)
    listener = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    proxy.url = f"redis://127.0.0.1:{port}/0"
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
        await listener.wait_closed()
