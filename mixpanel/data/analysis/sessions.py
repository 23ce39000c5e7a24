"""The sessions of users: what they did without a break of 30 minutes, on one day."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mixpanel.data.analysis.layout import block, conditions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mixpanel.data.analysis.source import Condition, Scope

__all__ = ["LONGEST_SESSION", "events_in_sessions"]

LONGEST_SESSION = timedelta(days=1)
SESSIONS = """SELECT *, sum(is_first) OVER moves AS session
FROM (
    SELECT *, (
        coalesce(time - lag(time) OVER moves > INTERVAL 30 MINUTES, true)
        OR time::DATE != lag(time) OVER moves::DATE
    )::INTEGER AS is_first
    FROM {events}
    WINDOW moves AS (PARTITION BY distinct_id ORDER BY time, event)
)
WINDOW moves AS (PARTITION BY distinct_id ORDER BY time, event)"""


def events_in_sessions(
    scope: Scope,
    names: Sequence[str] | None,
    start: datetime,
    end: datetime,
    *,
    where: Condition | None = None,
) -> str:
    """Return the query of events as `scope.events` does, with the number of their `session`.

    All events of a user make up sessions, whatever their names; days are those of UTC.

    :raises ConfigError: for a condition that cannot be read.
    """
    # Sessions end at midnight, so those that reach into the period began on the day before at most.
    everything = scope.events(None, start - LONGEST_SESSION, end, extra=["distinct_id IS NOT NULL"])
    chosen = [f"time >= {scope.parameter('first', start)}"]
    if names is not None:
        chosen.append(f"list_contains({scope.parameter('names', list(names))}::VARCHAR[], event)")
    if where is not None:
        chosen.append(scope.condition(where, "where"))
    sessions = SESSIONS.format(events=block(everything))
    return f"SELECT *\nFROM {block(sessions)}{conditions(*chosen)}"
