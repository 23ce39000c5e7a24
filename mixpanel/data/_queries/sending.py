"""Send queries and make errors helpful: what the live and the inline queries share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._runtime import background_loop
from mixpanel.data._queries import answer_values, links
from mixpanel.data._queries.discovery import DiscoveryMethods
from mixpanel.data.exceptions import ConfigError, MixpanelDataError, QueryError, ReportNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mixpanel.data._queries.links import ReportLink
    from mixpanel.data._queries.requests import QueryRequest
    from mixpanel.data.query_results import QueryResult

__all__ = ["QuerySender"]

Found = TypeVar("Found", bound="QueryResult")
NOT_FOUND = (400, 404)


class QuerySender(DiscoveryMethods):
    """Send each query once, and find the likely mistake in one that is refused or empty."""

    async def see_in_mixpanel(self, result: QueryResult) -> str:
        """Return the address at which Mixpanel shows a result's report, for a browser.

        That of a saved report is known; one that is not saved is first given an address, by a call
        that costs none of the hourly queries.

        :raises ConfigError: for a local result, or one that no report of Mixpanel shows.
        :raises APIError: when Mixpanel refuses.
        """
        link: ReportLink | None = getattr(result, "__dict__", {}).get("_link")
        if link is None:
            raise ConfigError(
                f"no report of Mixpanel shows a {type(result).__name__} of this workspace"
            )
        api, view = self._core.api, await self._view()
        origin, project = api.app_origin, api.project_id
        if link.bookmark_id is not None:
            return links.saved_address(origin, project, view, link.kind, link.bookmark_id)
        assert link.params is not None
        slug = links.new_slug()
        body = {"slug": slug, "type": link.kind, "params": link.params()}
        path = f"/api/app/projects/{project}/bookmark-urls/"
        await api.request("POST", path, json_body=body, family="app")
        return links.unsaved_address(origin, project, view, link.kind, slug)

    def _linked(self, result: Found, link: ReportLink | None) -> Found:
        """Attach the link by which a result can be opened in Mixpanel."""
        if link is None:
            return result

        async def address() -> str:
            return await self.see_in_mixpanel(result)

        def from_sync_code() -> str:
            instead = "use `await workspace.see_in_mixpanel(result)`"
            background_loop.refuse_in_async("see_in_mixpanel()", instead)
            return background_loop.run(address)

        # Not a field: two equal results stay equal wherever they can be opened.
        result.__dict__.update(_link=link, _address=from_sync_code)
        return result

    async def _query(self, request: QueryRequest, events: Iterable[str | None] = ()) -> Any:
        """Send a query once; if it is refused, find out whether an event is unknown.

        :raises EventNotFoundError: with similar names.
        :raises APIError: when Mixpanel refuses for another reason.
        """
        self._core.check_open()
        try:
            answer = await self._core.api.query(**request.sent(), repeat=False)
            sent = {**(request.params or {}), **(request.form or {}), **(request.json_body or {})}
            info = self._core.api._request_info(request.method, request.path, sent)
            answer_values.check_error(answer, info)
        except QueryError as error:
            if error.status_code in (200, *NOT_FOUND):
                for event in events:
                    if event is not None:
                        await self._check_event(event, error)
            raise
        return answer

    async def _answer(
        self, request: QueryRequest, events: Sequence[str | None] = ()
    ) -> tuple[Any, str | None]:
        """Send a query; return its answer and the project's timezone."""
        return await self._query(request, events), await self.project_timezone()

    async def _check_events(self, events: Iterable[str | None], series: object) -> None:
        """Look for unknown events when nothing at all was counted."""
        if not _is_empty(series):
            return
        for event in events:
            if event is not None:
                await self._check_event(event)

    async def _report_missing(
        self, kind: str, number: int, error: QueryError, known: Callable[[], Any]
    ) -> None:
        """Raise with the list of reports if there is none of this number.

        :raises ReportNotFoundError: if so.
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
        """Raise with the list of reports if there is none of this number, as far as is known.

        :raises ReportNotFoundError: if so.
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
