"""Helpers of the official package's module of this name, for programs that import them."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

from mixpanel._runtime import background_loop
from mixpanel.flags._evaluation.hashing import BUCKETS, bucket
from mixpanel.flags._exposures.exposure import EXPOSURE_EVENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    import httpx

__all__ = [
    "EXPOSURE_EVENT",
    "REQUEST_HEADERS",
    "close_async_client_from_sync",
    "dispatch_exposure",
    "generate_traceparent",
    "normalized_hash",
    "prepare_common_query_params",
]

logger: Final = logging.getLogger("mixpanel.flags.utils")

REQUEST_HEADERS: Final = {
    "X-Scheme": "https",
    "X-Forwarded-Proto": "https",
    "Content-Type": "application/json",
}


def normalized_hash(key: str, salt: str) -> float:
    """Return the position, from 0 to 0.99, of an assignment value under a salt.

    >>> normalized_hash("abc", "variant")
    0.72
    """
    return bucket(key, salt) / BUCKETS


def generate_traceparent() -> str:
    """Return a W3C `traceparent` header with new ids."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def prepare_common_query_params(
    token: str, sdk_version: str, project_id: str | None = None
) -> dict[str, str]:
    """Return the query of each request to the flags API."""
    query = {"mp_lib": "python", "lib_version": sdk_version, "token": token}
    return query if project_id is None else {**query, "project_id": project_id}


def dispatch_exposure(
    tracker: Callable[..., Any],
    executor: Executor | None,
    distinct_id: str,
    properties: dict[str, Any],
) -> None:
    """Call `tracker(distinct_id, "$experiment_started", properties)`, in an executor if given.

    What it raises in the executor is logged.
    """
    if executor is None:
        tracker(distinct_id, EXPOSURE_EVENT, properties)
    else:
        future = executor.submit(tracker, distinct_id, EXPOSURE_EVENT, properties)
        future.add_done_callback(_log_error)


def _log_error(future: Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        logger.error("an exposure could not be tracked", exc_info=error)


def close_async_client_from_sync(client: httpx.AsyncClient) -> None:
    """Close an async HTTP client from sync code.

    :raises SyncInAsyncError: on the thread of a running event loop.
    """
    background_loop.refuse_in_async("close_async_client_from_sync", "await client.aclose() instead")
    background_loop.run(client.aclose)
