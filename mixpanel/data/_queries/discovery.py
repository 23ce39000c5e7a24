"""Discover the events, properties, reports and schemas of a project: methods of workspaces."""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from mixpanel.data._fetch.plan import today
from mixpanel.data._queries import on_demand, response_values
from mixpanel.data._queries.arguments import event_name, one_of, whole
from mixpanel.data.discovery import (
    BookmarkInfo,
    BookmarkType,
    EntityType,
    FunnelInfo,
    LexiconSchema,
    LimitedList,
    SavedCohort,
    TopEvent,
)
from mixpanel.data.exceptions import (
    APIError,
    EventNotFoundError,
    MixpanelDataError,
    PropertyNotFoundError,
    QueryError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable

    from mixpanel.data._queries.cache import Cache
    from mixpanel.data._workspace.core import WorkspaceCore
    from mixpanel.data.query_results import CountType

__all__ = ["DiscoveryMethods"]

T = TypeVar("T")
MAX_NAMES = 5000  # the server's maximum
FIRST_DATE = date(2000, 1, 1)
TOO_OLD = re.compile(r"exceeds (\d+) days", re.IGNORECASE)
MISSING = object()
FRESH_FOR = 60.0  # seconds: a cached list that is older may lack new events
OPTIONAL_TIMEOUT = 20.0  # seconds, for calls whose failure does not fail the query


class DiscoveryMethods:
    """Names and definitions of a project, cached for ten minutes."""

    _core: WorkspaceCore

    async def list_events(
        self, *, limit: int = MAX_NAMES, refresh: bool = False
    ) -> LimitedList[str]:
        """Return the names of the project's events, in alphabetical order.

        `limit_hit` is True if there are more than `limit` (1 to 5,000). Costs one query, unless the
        response is cached from the last ten minutes; `refresh` bypasses the cache.

        :raises APIError: when Mixpanel rejects the call.
        """
        whole("limit", limit, 1, MAX_NAMES)

        async def load() -> LimitedList[str]:
            names = on_demand.discovery_responses.names(await self._event_names(limit))
            return _limited(names, limit)

        return await self._cached(("events", limit), load, refresh=refresh)

    async def list_properties(
        self, event: str, *, limit: int = MAX_NAMES, refresh: bool = False
    ) -> LimitedList[str]:
        """Return the names of an event's properties, in alphabetical order.

        `limit_hit` is True if there are more than `limit`.

        :raises EventNotFoundError: with similar names; finding those may cost a second query.
        :raises APIError: when Mixpanel rejects the call.
        """
        event_name(event)
        whole("limit", limit, 1, MAX_NAMES)

        async def load() -> LimitedList[str]:
            params = {"event": event, "limit": limit}
            try:
                response = await self._get("events/properties/top", params)
            except QueryError as error:
                await self._check_event(event, error)
                raise
            names = on_demand.discovery_responses.properties(response)
            if not names:
                await self._check_event(event)
            return _limited(names, limit)

        return await self._cached(("properties", event, limit), load, refresh=refresh)

    async def list_property_values(
        self,
        property_name: str,
        event: str | None = None,
        limit: int = 100,
        *,
        refresh: bool = False,
    ) -> LimitedList[str]:
        """Return values of a property as text, the most frequent first.

        `limit_hit` is True if there may be more than `limit`. Without `event`, those of all events.

        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises PropertyNotFoundError: for an unknown property, with similar names.
        :raises APIError: when Mixpanel rejects the call.
        """
        event_name(property_name, "property_name")
        if event is not None:
            event_name(event)
        whole("limit", limit, 1, 10_000)

        async def load() -> LimitedList[str]:
            params = {"event": event, "name": property_name, "limit": limit}
            try:
                values = on_demand.discovery_responses.names(
                    await self._get("events/properties/values", params)
                )
            except QueryError as error:
                if event is not None:
                    await self._check_event(event, error)
                raise
            if not values and event is not None:
                await self._check_property(event, property_name)
            return LimitedList(values, limit=limit)

        key = ("values", property_name, event, limit)
        return await self._cached(key, load, refresh=refresh)

    async def list_events_with_properties(self, *, refresh: bool = False) -> dict[str, list[str]]:
        """Return the properties of every event, by event name; costs one query.

        :raises APIError: when Mixpanel rejects the call.
        """

        async def load() -> dict[str, list[str]]:
            params = {"fetch_per_event_properties": True}
            response = await self._get("data_definitions/events", params)
            return on_demand.discovery_responses.events_with_properties(response)

        return await self._cached("events with properties", load, refresh=refresh)

    async def list_funnels(self, *, refresh: bool = False) -> list[FunnelInfo]:
        """Return the saved funnels, sorted by name.

        :raises APIError: when Mixpanel rejects the call.
        """

        async def load() -> list[FunnelInfo]:
            return on_demand.discovery_responses.funnels(await self._get("funnels/list"))

        return await self._cached("funnels", load, refresh=refresh)

    async def list_cohorts(self, *, refresh: bool = False) -> list[SavedCohort]:
        """Return the saved cohorts, sorted by name.

        :raises APIError: when Mixpanel rejects the call.
        """

        async def load() -> list[SavedCohort]:
            return on_demand.discovery_responses.cohorts(
                await self._get("cohorts/list", method="POST")
            )

        return await self._cached("cohorts", load, refresh=refresh)

    async def list_bookmarks(
        self, bookmark_type: BookmarkType | None = None, *, refresh: bool = False
    ) -> list[BookmarkInfo]:
        """Return the saved reports, sorted by name; costs none of the hourly queries.

        :raises APIError: when Mixpanel rejects the call.
        """
        if bookmark_type is not None:
            one_of("bookmark_type", bookmark_type, BookmarkType)

        async def load() -> list[BookmarkInfo]:
            params = {"v": 2, "type": bookmark_type}
            return on_demand.discovery_responses.bookmarks(await self._get_app("bookmarks", params))

        return await self._cached(("bookmarks", bookmark_type), load, refresh=refresh)

    async def top_events(
        self,
        *,
        type: CountType = "general",
        limit: int | None = None,
    ) -> LimitedList[TopEvent]:
        """Return today's most frequent events, and their change from yesterday; never cached.

        `limit` is 100 unless given.

        :raises APIError: when Mixpanel rejects the call.
        """
        from mixpanel.data.query_results import CountType

        one_of("type", type, CountType)
        whole("limit", limit, 1, MAX_NAMES)
        response = await self._get("events/top", {"type": type, "limit": limit or 100})
        return LimitedList(on_demand.discovery_responses.top_events(response), limit=limit or 100)

    async def lexicon_schemas(
        self, *, entity_type: EntityType | None = None, refresh: bool = False
    ) -> list[LexiconSchema]:
        """Return the lexicon's entries of events and profiles, by type and name.

        Lists only what has a schema. Costs none of the hourly queries, but one of the lexicon's
        five a minute.

        :raises APIError: when Mixpanel rejects the call.
        """
        if entity_type is not None:
            one_of("entity_type", entity_type, EntityType)

        async def load() -> list[LexiconSchema]:
            path = "schemas" if entity_type is None else f"schemas/{entity_type}"
            return on_demand.discovery_responses.schemas(await self._get_app(path))

        return await self._cached(("schemas", entity_type), load, refresh=refresh)

    async def lexicon_schema(
        self, entity_type: EntityType, name: str, *, refresh: bool = False
    ) -> LexiconSchema:
        """Return the lexicon's entry of one event, or of profiles ("profile" and "$user").

        :raises EventNotFoundError: when the lexicon has no such entry.
        :raises APIError: when Mixpanel rejects the call.
        """
        one_of("entity_type", entity_type, EntityType)
        event_name(name, "name")

        async def load() -> LexiconSchema:
            path = f"schemas/{entity_type}/{quote(name, safe='')}"
            try:
                found = on_demand.discovery_responses.schema(
                    await self._get_app(path), entity_type, name
                )
            except QueryError as error:
                if error.status_code != 404:
                    raise
                found = None
            if found is None:
                known = await self.lexicon_schemas(entity_type=entity_type)
                raise EventNotFoundError(
                    name, on_demand.discovery_responses.similar(name, [each.name for each in known])
                )
            return found

        return await self._cached(("schema", entity_type, name), load, refresh=refresh)

    async def project_timezone(self) -> str | None:
        """Return the project's timezone, for example "Europe/Oslo"; None if unknown.

        Costs none of the hourly queries, and is cached.
        """
        async with self._cache.loading("timezone"):
            known = self._cache.get("timezone", MISSING)
            if known is MISSING:
                known = None
                with suppress(APIError):
                    response = await self._app("/api/app/me")
                    known = on_demand.discovery_responses.timezone(
                        response, self._core.api.project_id
                    )
                self._cache.put("timezone", known)
        return cast("str | None", known)

    def clear_discovery_cache(self) -> None:
        """Clear the cache, so that the next discovery calls Mixpanel."""
        self._cache.clear()

    # ---- what queries use -----------------------------------------------------------------------

    @property
    def _cache(self) -> Cache:
        return self._core.discovery_cache

    async def _cached(self, key: Hashable, load: Callable[[], Awaitable[T]], *, refresh: bool) -> T:
        """Return a copy of the cached value, which a caller may change."""
        async with self._cache.loading(key):
            value = MISSING if refresh else self._cache.get(key, MISSING)
            if value is MISSING:
                self._core.check_open()
                value = await load()
                self._cache.put(key, value)
        return cast("T", copy.deepcopy(value))

    async def _get(
        self, path: str, params: dict[str, Any] | None = None, *, method: str | None = None
    ) -> Any:
        response = await self._core.api.query(path, params=params, method=method, repeat=False)
        info = self._core.api._request_info(method or "GET", path, params or {})
        response_values.check_error(response, info)
        return response

    async def _get_app(self, path: str, params: dict[str, Any] | None = None) -> Any:
        params = {k: v for k, v in (params or {}).items() if v is not None}
        full = f"/api/app/projects/{self._core.api.project_id}/{path}"
        return await self._core.api.request("GET", full, params=params, family="app")

    async def _app(self, path: str) -> Any:
        """Make a call whose failure does not fail the query."""
        api = self._core.api
        return await api._send("GET", path, family="app", timeout=OPTIONAL_TIMEOUT, repeat=False)

    async def _event_names(self, limit: int) -> Any:
        days = self._cache.get("history days")
        first = FIRST_DATE if days is None else today() - timedelta(days=days)
        params: dict[str, Any] = {
            "type": "general",
            "limit": limit,
            "from_date": str(first),
            "to_date": str(today()),
        }
        try:
            return await self._get("events/names", params)
        except QueryError as error:
            found = TOO_OLD.search(error.message) if error.status_code == 403 else None
            if found is None or days is not None:
                raise
            self._cache.put("history days", int(found[1]))
            return await self._event_names(limit)

    async def _check_event(self, event: str, cause: Exception | None = None) -> None:
        """Raise if the project does not have an event; do nothing if that cannot be determined.

        :raises EventNotFoundError: for an unknown event, with similar names.
        """
        if event.startswith("$"):  # Mixpanel does not list its own events
            return
        try:
            names = await self.list_events()
            if event not in names and self._cache.age(("events", MAX_NAMES)) > FRESH_FOR:
                names = await self.list_events(refresh=True)  # the event may be new
        except MixpanelDataError:
            return
        if event not in names and not names.limit_hit:
            raise EventNotFoundError(
                event, on_demand.discovery_responses.similar(event, names)
            ) from cause

    async def _check_property(self, event: str, name: str) -> None:
        """Raise if an event does not have a property; do nothing if that cannot be determined.

        :raises EventNotFoundError: for an unknown event, with similar names.
        :raises PropertyNotFoundError: for an unknown property, with similar names.
        """
        if name.startswith("$") or name in ("time", "distinct_id"):
            return
        try:
            names = await self.list_properties(event)
        except APIError:
            return
        if name not in names and not names.limit_hit:
            raise PropertyNotFoundError(
                name, event, on_demand.discovery_responses.similar(name, names)
            )

    async def _data_view_id(self) -> int | None:
        """Return the id of the data view to query; None if there is none."""
        given = self._core.workspace_id
        if given is not None:
            return given
        known = self._cache.get("view", MISSING)
        if known is MISSING:
            project = self._core.api.project_id
            known = None
            for path in (f"projects/{project}/workspaces/public", "projects/metadata/index"):
                with suppress(APIError):
                    response = await self._app(f"/api/app/{path}")
                    known = on_demand.discovery_responses.default_workspace(response, project)
                if known is not None:
                    break
            self._cache.put("view", known)
        return cast("int | None", known)


def _limited(names: Collection[str], limit: int) -> LimitedList[str]:
    found = LimitedList(sorted(set(names)), limit=limit)
    found.limit_hit = len(names) >= limit
    return found
