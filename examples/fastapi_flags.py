"""Check feature flags in a FastAPI app, through a dependency.

pip install fastapi uvicorn
MP_TOKEN=... uvicorn fastapi_flags:app --app-dir examples

To try it without an account, run `mp emulator --flags examples/data/flags.json` and set
MP_BASE_URL=http://127.0.0.1:8650; then `curl -H 'X-User: u-17' http://127.0.0.1:8000/checkout`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request

from mixpanel import AsyncMixpanel, LocalFlagsConfig
from mixpanel.flags import Flag, Snapshot

NEW_CHECKOUT = Flag("new-checkout", default=False)
BUTTON = Flag("button-colour", default="grey")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Fetch the definitions before the first request, and poll for changes until shutdown."""
    token = os.environ.get("MP_TOKEN", "YOUR_TOKEN")
    async with AsyncMixpanel(token, local_flags_config=LocalFlagsConfig()) as mp:
        app.state.mp = mp
        yield


def flags(request: Request, x_user: Annotated[str, Header()]) -> Snapshot:
    """Return a snapshot, so that all checks of a request use the same definitions."""
    mp: AsyncMixpanel = request.app.state.mp
    return mp.local_flags.snapshot({"distinct_id": x_user, "custom_properties": {"plan": "team"}})


Flags = Annotated[Snapshot, Depends(flags)]
app = FastAPI(lifespan=lifespan)


@app.get("/checkout")
async def checkout(request: Request, x_user: Annotated[str, Header()]) -> dict[str, str]:
    """Check a flag with a plain call; the exposure is tracked in the background."""
    mp: AsyncMixpanel = request.app.state.mp
    new = NEW_CHECKOUT.value(mp.local_flags, {"distinct_id": x_user})
    return {"page": "new" if new else "old"}


@app.get("/bootstrap")
async def bootstrap(flags: Flags) -> dict[str, object]:
    """Return the variants for a front end, which tracks the exposures itself."""
    return {"button": flags.get_variant_value(BUTTON.key, BUTTON.default), **flags.bootstrap()}
