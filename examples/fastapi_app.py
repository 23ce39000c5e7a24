"""Track from a FastAPI app: `await mp.track(...)` in a handler costs microseconds.

pip install fastapi uvicorn
MP_TOKEN=... uvicorn fastapi_app:app --app-dir examples
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request

from mixpanel import AsyncMixpanel, context


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for the whole server; closing it sends pending messages."""
    async with AsyncMixpanel(os.environ.get("MP_TOKEN", "YOUR_TOKEN")) as mp:
        app.state.mp = mp
        yield


async def visitor(x_user: Annotated[str, Header()]) -> AsyncIterator[str]:
    """Set the user of all events that are tracked during the request."""
    with context(x_user, {"app": "shop"}):
        yield x_user


def mixpanel(request: Request) -> AsyncMixpanel:
    """Return the client, as a dependency."""
    mp: AsyncMixpanel = request.app.state.mp
    return mp


Mp = Annotated[AsyncMixpanel, Depends(mixpanel)]
app = FastAPI(lifespan=lifespan, dependencies=[Depends(visitor)])


@app.get("/books/{book}")
async def book(book: str, mp: Mp) -> dict[str, str]:
    """Show a book."""
    await mp.track(None, "Book Viewed", {"book": book})
    return {"book": book}


@app.post("/orders")
async def order(user: Annotated[str, Depends(visitor)], amount: float, mp: Mp) -> dict[str, Any]:
    """Accept an order, and update the customer's profile."""
    await mp.track(None, "Order Paid", {"amount": amount})
    await mp.people_increment(user, {"orders": 1, "spent": amount})
    return {"amount": amount}
