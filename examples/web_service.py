"""A web service on the spine: it publishes, asks agents, and streams what happens to browsers.

spine run examples.quotes:Quotes &
python -m examples.web_service
curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"customer": "ada", "sku": 7}'
curl -X POST localhost:8000/quotes -H 'content-type: application/json' -d '{"customer": "ada", "sku": 7}'
curl -N localhost:8000/events
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from socket import socket
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse

from examples.quotes import Wish
from spine import NoHandler, RequestFailed, RequestTimeout, Spine, Unavailable


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for the whole service: everything that requests do at the same time shares its connections.

    The streams have one of their own, which is closed first: that ends them.
    """
    async with Spine(name="web") as app.state.spine, Spine(name="web") as app.state.streams:
        yield


def client(request: Request) -> Spine:
    return request.app.state.spine


app = FastAPI(title="Orders", lifespan=lifespan)
Client = Annotated[Spine, Depends(client)]


@app.exception_handler(Unavailable)
async def later(request: Request, error: Unavailable) -> JSONResponse:
    """The server is away; a short absence is not seen here, the client tries again for a while."""
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})


@app.post("/orders", status_code=202)
async def order(wish: Wish, spine: Client) -> dict[str, int]:
    """Publish a fact; whoever is concerned acts on it."""
    event = await spine.publish("order.placed", wish, key=wish.customer)
    return {"seq": event.seq}


@app.post("/quotes")
async def quote(wish: Wish, spine: Client) -> dict[str, Any]:
    """Ask an agent and await its answer."""
    try:
        answer = await spine.request("quote.wanted", wish, key=wish.customer, timeout=5)
    except NoHandler as error:
        raise HTTPException(503, str(error)) from error
    except RequestFailed as error:
        raise HTTPException(502, str(error)) from error
    except RequestTimeout as error:
        raise HTTPException(504, str(error)) from error
    return answer.payload


@app.get("/events")
async def events(request: Request, last_event_id: Annotated[int | None, Header(ge=0)] = None) -> StreamingResponse:
    """Server-sent events; a browser that comes back names the last one it has seen, and misses none."""

    spine: Spine = request.app.state.streams

    async def stream() -> AsyncIterator[str]:
        with suppress(Unavailable):  # the stream ends, and the browser comes back
            async with aclosing(spine.tail(types=("order.*", "quote.*"), after=last_event_id)) as tail:
                async for event in tail:
                    yield f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(event.to_dict())}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


class Server(uvicorn.Server):
    """Ends the streams when it is told to stop; else it would wait for them for ever."""

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        await app.state.streams.close()
        await super().shutdown(sockets)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        Server(uvicorn.Config(app, port=int(os.environ.get("PORT", "8000")))).run()
