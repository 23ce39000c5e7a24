"""Carry the identity and properties of events from the sender of a task to its worker."""

from __future__ import annotations

import json
from typing import Any

from mixpanel._records import context as contexts
from mixpanel._records.context import IDENTITY
from mixpanel._records.json_encoding import json_dumps
from mixpanel._runtime.safe_logging import logger

__all__ = ["HEADER", "dump_context", "load_context"]

HEADER = "mixpanel_context"  # in the headers, options or meta data of a task's message
MAX_BYTES = 8192


def dump_context() -> str | None:
    """Return the current identity and properties as JSON, or None without any.

    Properties are left out, with a warning, if they are not JSON or longer than 8 KiB.
    """
    scope = contexts.current()
    if scope is None:
        return None
    identity = {name: getattr(scope, name) for name in IDENTITY}
    carried: dict[str, Any] = {name: value for name, value in identity.items() if value is not None}
    # The identity is short and plain text: it is sent even where the properties cannot be.
    if scope.properties:
        try:
            text: str = json_dumps({**carried, "properties": scope.properties})
        except Exception as error:
            logger.warning("a task is sent without the properties of its context: %s", error)
        else:
            if len(text) <= MAX_BYTES:
                return text
            logger.warning(
                "a task is sent without the properties of its context, which are longer than "
                "%d bytes: %d",
                MAX_BYTES,
                len(text),
            )
    return json_dumps(carried) if carried else None


def load_context(text: object) -> contexts.Scope:
    """Return the scope of a task; an empty one if there is none, or with a warning if it is bad."""
    if text is None:
        return contexts.Scope()
    try:
        carried = json.loads(text) if isinstance(text, (str, bytes)) else text
    except ValueError:
        carried = None
    if not isinstance(carried, dict):
        carried = {"properties": None}
    distinct_id, device_id, user_id = map(carried.get, IDENTITY)
    properties = carried.get("properties", {})
    ids_are_text = all(
        value is None or isinstance(value, str) for value in (distinct_id, device_id, user_id)
    )
    # All or nothing: an identity without its properties, or half of one, would be a guess.
    if not ids_are_text or not isinstance(properties, dict):
        logger.warning("a task runs without the context of its sender: its header is not valid")
        return contexts.Scope()
    return contexts.Scope((distinct_id, device_id, user_id), properties)
