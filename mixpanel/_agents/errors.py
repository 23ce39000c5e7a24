"""Errors for an agent: what was wrong, in terms of the tools, and the next step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mixpanel._agents.results import cut, json_text
from mixpanel.data.exceptions import APIError, MixpanelDataError
from mixpanel.exceptions import MixpanelException

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ToolFailure", "failure_of", "next_step"]

MAX_MESSAGE = 1_500  # characters
# Advice of messages that is for Python or a shell, so that an agent cannot follow it.
ADVICE = (
    re.compile(r"\s*Pass write=True to modify data\.?"),
    re.compile(r"\.? ?Open the database with\s+external_access=True to allow it\.?"),
    re.compile(r", or create a view with a column for each property:.*$", re.DOTALL),
    re.compile(r", or pass mixed=True"),
    re.compile(r": allow more with memory_limit=.*$", re.DOTALL),
    re.compile(r": fetch something first, as with `mp fetch events`"),
    re.compile(r": fetch with replace=True to replace it or.*$", re.DOTALL),
)
LOCAL = "call overview to see the tables and their columns"
NEXT = {
    "SQL_ERROR": f"correct the statement; {LOCAL}, or explain(topic='agents#sql') for examples",
    "UNSAFE_SQL": "read with one SELECT from the tables of overview; files, extensions and changes "
    "are out of reach of this tool",
    "SQL_TIMEOUT": "read less: a WHERE on event_time, fewer columns, count or sum instead of "
    "rows, or FROM events USING SAMPLE 1%",
    "TOO_WIDE": "select the columns that you need, by name",
    "PROCESS_ENDED": "read less: fewer rows and columns, or aggregate them",
    "OUT_OF_MEMORY": "read less: a WHERE on event_time, fewer columns, or aggregate first",
    "TABLE_NOT_FOUND": LOCAL,
    "DATABASE_LOCKED": "another process writes to the database: repeat the call in a few seconds",
    "EVENT_NOT_FOUND": "use one of these names, or list_events(search=...)",
    "PROPERTY_NOT_FOUND": "use one of these names, or list_properties(event=...)",
    "REPORT_NOT_FOUND": "search_saved lists the reports and their ids",
    "TABLE_EXISTS": "choose another table, or replace=true with confirm='TABLE'",
    "FETCH_INCOMPLETE": "repeat the same call: it continues with the missing days",
    "RATE_LIMITED": "query a local table instead (query with table=..., or sql), which is free",
    "AUTH_FAILED": "the user has to renew the account: mp auth test",
    "LOGIN_REQUIRED": "the user has to log in again: mp auth login NAME",
    "PLAN_LIMIT": "the project's plan does not include this call: use a local table",
    "EXPRESSION_ERROR": 'write where as properties["plan"] == "team"; explain(topic=\'queries\')',
    "INVALID_CURSOR": "repeat the call without cursor",
    "TOPIC_NOT_FOUND": "explain() lists the topics",
    "FLAG_NOT_FOUND": "use one of these keys",
    "QUERY_FAILED": "check names and arguments; list_events and list_properties show what exists",
    "SERVER_ERROR": "repeat the call later, or query a local table",
}
FETCH = "fetch_events brings a range of days into it"
NO_FETCH = (
    "the user has to start the server with `mp mcp --allow-writes` for fetch_events, or run "
    "`mp fetch events`; query without table= is computed by Mixpanel"
)
NEEDS_DATA = ("DATABASE_NOT_FOUND", "NO_LOCAL_EVENTS")


class ToolFailure(MixpanelException):
    """A call of a tool failed; the text is for the model: what was wrong, and the next step."""

    def __init__(self, code: str, message: str, step: str | None) -> None:
        self.code = code
        self.message = message
        self.next_step = step
        super().__init__(f"{code}: {message}" + (f"\nNext: {step}" if step else ""))

    def to_dict(self) -> dict[str, Any]:
        """Return code, message and next step, as `mp mcp --call` writes them."""
        known = {"code": self.code, "message": self.message, "next": self.next_step}
        return {name: value for name, value in known.items() if value is not None} | {"details": {}}


def failure_of(error: Exception, *, allow_writes: bool) -> ToolFailure:
    """Return the failure for an error of a tool.

    For an unexpected error it has only the type: the text might have secrets.
    """
    if isinstance(error, ToolFailure):
        return error
    if isinstance(error, MixpanelDataError):
        code, message = error.code, error.message
    elif isinstance(error, MixpanelException):
        code, message = "FAILED", str(error)
    elif isinstance(error, OSError):
        code, message = "OS_ERROR", error.strerror or type(error).__name__
    else:
        return ToolFailure(
            "INTERNAL",
            f"this call failed unexpectedly ({type(error).__name__}); the log of the server has "
            "the traceback",
            "try other arguments, or another tool",
        )
    details = error.details if isinstance(error, MixpanelDataError) else {}
    for advice in ADVICE:
        message = advice.sub("", message)
    if isinstance(error, APIError) and error.retry_after:
        message += f" (retry after {error.retry_after:.0f} s)"
    return ToolFailure(code, _escaped(message), next_step(code, details, allow_writes=allow_writes))


def next_step(code: str, details: Mapping[str, Any], *, allow_writes: bool) -> str | None:
    """Return what an agent can do after an error with this code; None if nothing is known."""
    if code in NEEDS_DATA:
        return FETCH if allow_writes else NO_FETCH
    if code == "EVENT_NOT_FOUND" and not details.get("similar_events"):
        return "list_events(search=...) finds the existing names"
    if code == "PROPERTY_NOT_FOUND" and not details.get("similar_properties"):
        return "list_properties(event=...) lists the existing ones"
    return NEXT.get(code)


def _escaped(text: str) -> str:
    """Return text of a limited length whose hidden characters are escaped."""
    short, _ = cut(text, MAX_MESSAGE)
    lines = str(short).split("\n")
    # `json_text` escapes hidden characters; quotes and backslashes may stay as they are.
    shown = (json_text(line)[1:-1].replace('\\"', '"').replace("\\\\", "\\") for line in lines)
    return "\n".join(shown)
