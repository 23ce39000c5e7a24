"""Dependencies for FastAPI; the middleware is `mixpanel.integrations.asgi`.

mp = AsyncMixpanel("TOKEN", local_flags_config=LocalFlagsConfig())
app.add_middleware(MixpanelMiddleware, client=mp, identify=user_of)

@app.get("/checkout")
async def checkout(flags: Flags, new: Annotated[bool, flag_value(NEW_CHECKOUT)]): ...
"""

from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from mixpanel.client import AsyncMixpanel, Mixpanel
from mixpanel.integrations import asgi
from mixpanel.integrations.asgi import MixpanelMiddleware, lifespan
from mixpanel.integrations.flags import RequestFlags

if TYPE_CHECKING:
    from mixpanel.flags import Flag

__all__ = ["Client", "Flags", "MixpanelMiddleware", "SyncClient", "flag_value", "lifespan"]

T = TypeVar("T")


async def _client(connection: HTTPConnection) -> Any:
    return asgi.get_client(connection)


async def _flags(connection: HTTPConnection) -> RequestFlags:
    return asgi.get_flags(connection)


Client = Annotated[AsyncMixpanel, Depends(_client)]
"""The middleware's client."""

SyncClient = Annotated[Mixpanel, Depends(_client)]
"""The middleware's client, for an application with sync handlers and a sync client."""

Flags = Annotated[RequestFlags, Depends(_flags)]
"""The flags of the request's user: one snapshot per request, whose checks report exposures."""


def flag_value(flag: "Flag[T]") -> T:
    """Return a dependency on the value of a flag: `Annotated[bool, flag_value(NEW_CHECKOUT)]`.

    The exposure is reported, even if the handler does not use the value.
    """

    async def value(flags: Flags) -> T:
        return flags.value(flag)

    return cast("T", Depends(value))
