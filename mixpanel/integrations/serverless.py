"""Send what is buffered before a serverless function responds.

    mp = Mixpanel("TOKEN", AsyncBufferedConsumer())

    @flush_after(mp)
    def handler(event, context):
        mp.track(event["user"], "Called")

After the response the platform freezes the process: what is buffered then waits for the next call,
or is lost.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._records.context import context as new_context
from mixpanel._runtime.safe_logging import logger
from mixpanel.exceptions import ConfigurationError
from mixpanel.integrations import _serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel.client import AsyncMixpanel, Mixpanel

__all__ = ["flush_after"]

Handler = TypeVar("Handler", bound="Callable[..., Any]")


def flush_after(
    client: AsyncMixpanel | Mixpanel, *, timeout: float = 2.0, margin: float = 0.5
) -> Callable[[Handler], Handler]:
    """Return a decorator that flushes a client after each call, also after one that raises.

    The flush takes `timeout` seconds at most. If the second argument of the call has the method
    `get_remaining_time_in_millis`, as on AWS Lambda, it ends `margin` seconds before the deadline.
    What could not be sent is logged, and stays in the buffer for the next call. Each call starts
    with an empty context. The response or exception of the function is not changed.

    :param client: for an async function either client, for a sync one a `Mixpanel`.
    :raises ConfigurationError: for a sync function with an async client, and for a generator, which
        is still running when it has returned.
    """
    _serving.checked_client(client)
    longest = _serving.checked_timeout(timeout, "timeout")
    reserve = _serving.checked_timeout(margin, "margin")

    def seconds_left(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        lambda_context = args[1] if len(args) > 1 else kwargs.get("context")
        return _seconds_left(lambda_context, longest, reserve)

    def decorate(handler: Handler) -> Handler:
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise ConfigurationError(
                "flush_after cannot decorate a generator: call flush() after its last piece"
            )
        if inspect.iscoroutinefunction(handler):

            @functools.wraps(handler)
            async def async_call(*args: Any, **kwargs: Any) -> Any:
                try:
                    with new_context(fresh=True):
                        return await handler(*args, **kwargs)
                finally:
                    if (left := seconds_left(args, kwargs)) > 0:
                        await _serving.flush_client_async(client, left)

            return async_call  # type: ignore[return-value]
        sync_client = _serving.checked_client(client, sync=True)

        @functools.wraps(handler)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                with new_context(fresh=True):
                    return handler(*args, **kwargs)
            finally:
                if (left := seconds_left(args, kwargs)) > 0:
                    _serving.flush_client(sync_client, left)

        return call  # type: ignore[return-value]

    return decorate


def _seconds_left(lambda_context: Any, longest: float, margin: float) -> float:
    remaining = getattr(lambda_context, "get_remaining_time_in_millis", None)
    if not callable(remaining):
        return longest
    milliseconds: Any = remaining()
    left: float = min(longest, milliseconds / 1000 - margin)
    if left <= 0:
        logger.warning("no time is left to send what is buffered before the response")
    return left
