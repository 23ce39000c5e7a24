"""All queries to Mixpanel, as methods of both workspaces."""

from __future__ import annotations

from mixpanel.data._queries.counts import CountQueries
from mixpanel.data._queries.inline import InlineQueries
from mixpanel.data._queries.reports import ReportQueries
from mixpanel.data._queries.users import UserQueries

__all__ = ["LiveQueries"]


class LiveQueries(CountQueries, ReportQueries, UserQueries, InlineQueries):
    """Discovery, classic queries and inline queries; each query costs one of the hourly ones."""
