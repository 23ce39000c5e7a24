"""Send queries, and find likely mistakes in those that fail or count nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._runtime import background_loop
from mixpanel.data._fetch.plan import Day, as_day, is_relative
from mixpanel.data._queries import links, response_values
from mixpanel.data._queries.discovery import DiscoveryMethods
from mixpanel.data.exceptions import ConfigError, MixpanelDataError, QueryError, ReportNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mixpanel.data._queries.links import ReportLink
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.query_results import QueryResult

__all__ = ["QuerySender"]

D = TypeVar("D", Day, Day | None)
Found = TypeVar("Found", bound="QueryResult")
NOT_FOUND = (400, 404)


class QuerySender(DiscoveryMethods):
    """Sends each query once, and finds the likely mistake in one that fails or counts nothing."""

    async def see_in_mixpanel(self, result: QueryResult) -> str:
        """Return the address at which Mixpanel shows a result's report, for a browser.

        A saved report has an address. For one that is not saved, a call creates one; it costs none
        of the hourly queries.

        :raises ConfigError: for a local result, or one that has no equivalent report in Mixpanel.
        :raises APIError: when Mixpanel rejects the call.
        """
        link: ReportLink | None = getattr(result, "__dict__", {}).get("_link")
        if link is None:
            raise ConfigError(f"Mixpanel has no report that shows this {type(result).__name__}")
        api, view = self._core.api, await self._data_view_id()
        origin, project = api.app_origin, api.project_id
        if link.bookmark_id is not None:
            return links.saved_address(origin, project, view, link.kind, link.bookmark_id)
        assert link.params is not None
        slug = links.new_slug()
        body = {"slug": slug, "type": link.kind, "params": link.params()}
        path = f"/api/app/projects/{project}/bookmark-urls/"
        await api.request("POST", path, json_body=body, family="app")
        return links.unsaved_address(origin, project, view, link.kind, slug)

    def _with_link(self, result: Found, link: ReportLink | None) -> Found:
        """Return the result with a link to its report, for `see_in_mixpanel`."""
        if link is None:
            return result

        async def address() -> str:
            return await self.see_in_mixpanel(result)

        def from_sync_code() -> str:
            instead = "use `await workspace.see_in_mixpanel(result)`"
            background_loop.refuse_in_async("see_in_mixpanel()", instead)
            return background_loop.run(address)

        # Not a field, so that equal results stay equal wherever they can be opened.
        result.__dict__.update(_link=link, _address=from_sync_code)
        return result

    async def _days(self, from_date: D, to_date: D) -> tuple[D, D]:
        """Return the days of a query, those relative to today as dates in the project's timezone.

        Finding out the timezone costs none of the hourly queries.

        :raises ConfigError: for a day before the calendar.
        """
        if not (is_relative(from_date) or is_relative(to_date)):
            return from_date, to_date
        zone = await self.project_timezone()
        days: dict[str, Any] = {"from_date": from_date, "to_date": to_date}
        resolved: list[Any] = [
            as_day(day, name, zone) if is_relative(day) else day for name, day in days.items()
        ]
        return resolved[0], resolved[1]

    async def _query(self, request: QueryRequest, events: Iterable[str | None] = ()) -> Any:
        """Send a query once; if it is rejected, find out whether an event is unknown.

        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises APIError: when Mixpanel rejects the query for another reason.
        """
        self._core.check_open()
        try:
            response = await self._core.api.query(**request.sent(), repeat=False)
            sent = {**(request.params or {}), **(request.form or {}), **(request.json_body or {})}
            info = self._core.api._request_info(request.method, request.path, sent)
            response_values.check_error(response, info)
        except QueryError as error:
            if error.status_code in (200, *NOT_FOUND):
                for event in events:
                    if event is not None:
                        await self._check_event(event, error)
            raise
        return response

    async def _query_with_timezone(
        self, request: QueryRequest, events: Sequence[str | None] = ()
    ) -> tuple[Any, str | None]:
        """Send a query; return its response and the project's timezone."""
        return await self._query(request, events), await self.project_timezone()

    async def _check_events(self, events: Iterable[str | None], series: object) -> None:
        """Check for unknown events if nothing was counted."""
        if not _is_empty(series):
            return
        for event in events:
            if event is not None:
                await self._check_event(event)

    async def _report_missing(
        self, kind: str, number: int, error: QueryError, known: Callable[[], Any]
    ) -> None:
        """Raise with the list of reports if none has this id.

        :raises ReportNotFoundError: if there is none.
        """
        if error.status_code in (200, *NOT_FOUND):
            await self._check_report(kind, number, known, error)

    async def _check_report(
        self,
        kind: str,
        number: int,
        known: Callable[[], Any],
        cause: QueryError | None = None,
    ) -> None:
        """Raise with the list of reports if none has this id; do nothing if that is unknown.

        :raises ReportNotFoundError: if there is none.
        """
        try:
            rows = await known()
        except MixpanelDataError:
            return
        available = {row.id: row.name for row in rows}
        if number not in available:
            raise ReportNotFoundError(kind, number, available) from cause


def _is_empty(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_empty(inner) for inner in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_empty(inner) for inner in value)
    return not value
