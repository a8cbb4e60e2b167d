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
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import StreamingResponse

from examples.quotes import Wish
from spine import NoHandler, RequestTimeout, Spine


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for the whole service: everything that requests do at the same time shares its connections."""
    async with Spine(name="web") as app.state.spine:
        yield


def client(request: Request) -> Spine:
    return request.app.state.spine


app = FastAPI(title="Orders", lifespan=lifespan)
Client = Annotated[Spine, Depends(client)]


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
    except RequestTimeout as error:
        raise HTTPException(504, str(error)) from error
    return answer.payload


@app.get("/events")
async def events(spine: Client, last_event_id: Annotated[int | None, Header()] = None) -> StreamingResponse:
    """Server-sent events; a browser that comes back names the last one it has seen, and misses none."""

    async def stream() -> AsyncIterator[str]:
        async with aclosing(spine.tail(types=("order.*", "quote.*"), after=last_event_id)) as tail:
            async for event in tail:
                yield f"id: {event.seq}\nevent: {event.type}\ndata: {json.dumps(event.to_dict())}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


if __name__ == "__main__":
    # Streams never end by themselves: two seconds after Ctrl-C they are cut.
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=2)
