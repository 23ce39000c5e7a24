"""Make the calls that the table of resources describes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from mixpanel.data._fetch.plan import as_day, is_relative
from mixpanel.data._project import responses
from mixpanel.data._project.arguments import bound
from mixpanel.data._project.table import PLACEHOLDER
from mixpanel.data.exceptions import (
    APIError,
    AuthenticationError,
    ConfigError,
    ObjectNotFoundError,
    QueryError,
    ServerError,
)
from mixpanel.data.project import Items, PlannedCall, ProjectObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mixpanel.data._project.table import Endpoint, Field, Resource
    from mixpanel.data._workspace.core import WorkspaceCore
    from mixpanel.data.api import AsyncAPI

__all__ = ["PreparedCall", "ProjectCalls"]

MAX_PAGES = 1000
HIDDEN = "***"
MAY_BE_APPLIED = "it may have been applied all the same: read what there is before repeating it"
NEEDS_TOKEN = "this API accepts OAuth tokens only: set MP_OAUTH_TOKEN"  # noqa: S105 - the name
# What discovery remembers of a resource, by the keys of its cache.
DISCOVERED = {
    "reports": ("bookmarks", "funnels"),
    "cohorts": ("cohorts",),
    "schemas": ("schemas", "schema"),
}
MAX_IDS = {"data-retrievals": 2000, "data-deletions": 1999}


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call whose arguments are checked, and what they are."""

    resource: Resource
    endpoint: Endpoint
    path: str
    given: Mapping[str, Any]
    query: list[tuple[str, str]] = field(default_factory=list)
    body: Any = None

    @property
    def url(self) -> str:
        """The path with its query, as it is sent."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def is_dangerous(self) -> bool:
        """True if it does what cannot be undone."""
        danger = self.endpoint.danger
        if isinstance(danger, bool):
            return danger
        return any(self.given.get(name) not in (None, False, [], {}) for name in danger)

    def planned(self) -> PlannedCall:
        """Return what would be sent, without passwords and tokens."""
        secrets = {
            self.endpoint.name_in_requests(each)
            for each in self.endpoint.arguments
            if each.is_secret
        }
        return PlannedCall(
            method=self.endpoint.method,
            path=self.path,
            params={name: HIDDEN if name in secrets else value for name, value in self.query},
            body=_without(self.body, secrets),
            form=self.endpoint.form,
            needs_confirmation=self.is_dangerous,
        )


class ProjectCalls:
    """Calls of one project's app API."""

    def __init__(
        self,
        core: WorkspaceCore,
        view: Callable[[], Awaitable[int | None]],
        timezone: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._core = core
        self._view = view
        self._timezone = timezone

    @property
    def api(self) -> AsyncAPI:
        """The client that sends the calls."""
        return self._core.api

    async def call(
        self,
        resource: Resource,
        endpoint: Endpoint,
        args: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
        *,
        confirm: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call an endpoint and return its objects.

        :raises ConfigError: for invalid arguments, or without the confirmation that is needed.
        :raises APIError: when Mixpanel refuses.
        """
        self._core.check_open()
        where = f"{resource.name}.{endpoint.name}"
        args, named = await self._with_dates(endpoint, args, named or {})
        given = bound(endpoint, where, args, dict(named))
        if not isinstance(confirm, bool):
            raise ConfigError(f"{where}: confirm={confirm!r} must be True or False")
        prepared = PreparedCall(resource, endpoint, "", given)
        if prepared.is_dangerous and not confirm:
            raise ConfigError(
                f"{where} cannot be undone: pass confirm=True, or see what it would send with "
                f"{resource.name}.plan({endpoint.name!r}, ...)"
            )
        if extra and (endpoint.in_list or endpoint.run is not None):
            raise ConfigError(f"{where} takes no extra={{...}}: it makes several calls")
        if endpoint.in_list:
            return await self._found_in_list(resource, endpoint, given)
        if endpoint.run is not None:
            return await endpoint.run(self, resource, endpoint, given)
        return await self._call(await self._prepared(resource, endpoint, given, extra))

    async def plan(
        self,
        resource: Resource,
        endpoint: Endpoint,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> PlannedCall:
        """Check the arguments of a call, and return what it would send."""
        self._core.check_open()
        args, named = await self._with_dates(endpoint, args, named)
        given = bound(endpoint, f"{resource.name}.{endpoint.name}", args, dict(named))
        return (await self._prepared(resource, endpoint, given, extra)).planned()

    async def _with_dates(
        self, endpoint: Endpoint, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return arguments with dates for days such as `-7d`, in the project's timezone."""
        days = {each.name for each in endpoint.arguments if each.kind == "day"}
        if not any(name in days and is_relative(value) for name, value in named.items()):
            return args, named
        zone = await self._timezone()
        return args, {
            name: as_day(value, name, zone) if name in days and is_relative(value) else value
            for name, value in named.items()
        }

    # ---- requests -------------------------------------------------------------------------------

    async def _prepared(
        self,
        resource: Resource,
        endpoint: Endpoint,
        given: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> PreparedCall:
        where = f"{resource.name}.{endpoint.name}"
        if extra is not None and not hasattr(extra, "keys"):
            raise ConfigError(f"{where}: extra must be a dict of fields")
        _check_count(endpoint, given, where)
        path = "/api/app/" + await self._path(endpoint.path, given)
        query: dict[str, Any] = dict(endpoint.query)
        body: dict[str, Any] = {}
        has_body = bool(endpoint.constant)
        in_path = PLACEHOLDER.findall(endpoint.path)
        for each in endpoint.arguments:
            if each.place in ("none", "path") or each.name in in_path:
                continue
            is_query = each.place == "query"
            has_body = has_body or not is_query
            if each.name in given:
                target = query if is_query else body
                target[endpoint.name_in_requests(each)] = _sent(each, given[each.name])
        content: Any = endpoint.body(body) if endpoint.body is not None else body
        if isinstance(content, dict):
            if endpoint.merge:
                content = await self._merged(resource, endpoint, given, content)
            content = {**endpoint.constant, **content}
        if extra and (endpoint.method == "GET" or not has_body):
            query |= extra
        elif extra:
            content = {**content, **extra}
        return PreparedCall(
            resource,
            endpoint,
            path,
            given,
            list(_pairs(query)),
            content if has_body and endpoint.method != "GET" else None,
        )

    async def _merged(
        self,
        resource: Resource,
        endpoint: Endpoint,
        given: Mapping[str, Any],
        changes: dict[str, Any],
    ) -> dict[str, Any]:
        """Return all fields of an object with the changed ones: it is replaced as a whole."""
        get = resource.find("get")
        assert get is not None
        key = endpoint.arguments[0].name
        now = (await self.call(resource, get, (given[key],))).to_dict()
        names = [endpoint.name_in_requests(each) for each in endpoint.fields]
        known = {name: now[name] for name in names if now.get(name) is not None}
        return known | changes

    async def _path(self, path: str, given: Mapping[str, Any]) -> str:
        values: dict[str, str] = {}
        project = quote(self.api.project_id, safe="")
        for name in PLACEHOLDER.findall(path):
            if name == "project":
                values[name] = f"projects/{project}"
            elif name == "scope":
                pinned = self._core.workspace_id
                values[name] = f"projects/{project}" if pinned is None else f"workspaces/{pinned}"
            elif name == "view":
                values[name] = str(await self._required_view())
            elif name == "organization_id" and name not in given:
                values[name] = str(await self._organization())
            else:
                values[name] = _segment(name, given[name])
        return PLACEHOLDER.sub(lambda found: values[found[1]], path)

    async def _required_view(self) -> int:
        view = await self._view()
        if view is None:
            raise ConfigError(
                "the project's data view cannot be determined: pass workspace_id to the workspace, "
                "or set MP_WORKSPACE_ID"
            )
        return view

    async def _organization(self) -> int:
        """Return the id of the project's organization, which is requested once."""
        cache = self._core.discovery_cache
        async with cache.loading("organization"):
            known = cache.get("organization")
            if known is None:
                response = responses.results_of(await self.api.request("GET", "/api/app/me"))
                try:
                    known = int(response["projects"][self.api.project_id]["organization_id"])
                except (KeyError, TypeError, ValueError):
                    raise ConfigError(
                        "the project's organization cannot be determined: pass organization_id"
                    ) from None
                cache.put("organization", known)
        return int(known)

    async def send(self, prepared: PreparedCall) -> Any:
        """Send a call and return its JSON; writes are sent once.

        :raises APIError: when Mixpanel refuses.
        """
        endpoint, api = prepared.endpoint, self.api
        body: dict[str, Any] = {}
        if prepared.body is not None:
            body = {"form" if endpoint.form else "json_body": prepared.body}
        try:
            response = await api._send(
                endpoint.method, prepared.url, family="app", repeat=not endpoint.is_write, **body
            )
            sent = {**dict(prepared.query), "body": prepared.body}
            info = api._request_info(endpoint.method, api.app_origin + prepared.path, sent)
            responses.check_error(response, info)
        except QueryError as error:
            raise responses.explained(
                error, prepared.resource, endpoint, prepared.given
            ) from error.__cause__
        except ServerError as error:
            if endpoint.is_write:
                error.add_note(MAY_BE_APPLIED)
            raise
        except AuthenticationError as error:
            if "/data-" in prepared.path:
                error.add_note(NEEDS_TOKEN)
            raise
        finally:
            if endpoint.is_write:  # whether it was applied or not: discovery asks again
                self._core.discovery_cache.remove(*DISCOVERED.get(prepared.resource.name, ()))
        return response

    async def _call(self, prepared: PreparedCall) -> Any:
        endpoint, resource = prepared.endpoint, prepared.resource
        inside = endpoint.inside
        try:
            response = await self.send(prepared)
        except QueryError as error:
            if not endpoint.fallback or error.status_code not in (403, 404):
                raise
            project = self.api.project_id
            inside = tuple(each.format(project_id=project) for each in endpoint.fallback_inside)
            fallback = PreparedCall(
                resource, endpoint, f"/api/app/{endpoint.fallback}", prepared.given, prepared.query
            )
            try:
                response = await self.send(fallback)
            except APIError:
                raise error from None
        if endpoint.returns == "nothing":
            return None
        what = f"{resource.name}.{endpoint.name}"
        found = responses.results_of(response, inside)
        model = endpoint.model or resource.model
        if endpoint.returns == "value":
            return found
        if endpoint.returns == "list":
            return await self._all_pages(
                prepared, response, responses.read_list(model, found, what)
            )
        return await self._object(prepared, model, found, what)

    async def _all_pages(
        self, prepared: PreparedCall, response: Any, found: Items[ProjectObject]
    ) -> Items[ProjectObject]:
        """Add the pages that follow the first."""
        endpoint = prepared.endpoint
        what = f"{prepared.resource.name}.{endpoint.name}"
        seen: set[str] = set()
        while (cursor := responses.next_cursor(response)) and cursor not in seen:
            seen.add(cursor)
            if len(seen) >= MAX_PAGES:
                raise ServerError(f"{what}: the list has no end", status_code=200)
            page = [*prepared.query, (endpoint.cursor, cursor)]
            response = await self.send(
                PreparedCall(
                    prepared.resource, endpoint, prepared.path, prepared.given, page, prepared.body
                )
            )
            more = responses.results_of(response, endpoint.inside)
            found.extend(responses.read_list(endpoint.model or prepared.resource.model, more, what))
        return found

    async def _object(
        self, prepared: PreparedCall, model: type[ProjectObject], found: Any, what: str
    ) -> ProjectObject:
        """Return the object that a call is about, whatever of it was sent."""
        resource, given = prepared.resource, prepared.given
        number = given.get(resource.key)
        if isinstance(found, list) and len(found) > 1:
            found = _chosen(found, resource.key, number, given.get("event_name"))
        known = {} if number is None else {resource.key: number}
        if found in (None, {}, []):
            # A change may be confirmed without what it has changed.
            get = resource.find("get")
            if number is not None and get is not None and prepared.endpoint.method != "GET":
                return await self.call(resource, get, (number,))  # type: ignore[no-any-return]
            return model.read(known)
        return responses.read_object(model, found, what, known)

    async def _found_in_list(
        self, resource: Resource, endpoint: Endpoint, given: Mapping[str, Any]
    ) -> ProjectObject:
        listed = resource.find("list")
        assert listed is not None
        wanted = given[endpoint.arguments[0].name]
        by_name = any(each.name == "names" for each in listed.fields)
        named = {"names": [str(wanted)]} if by_name else {}
        rows: Items[ProjectObject] = await self.call(resource, listed, (), named)
        for row in rows:
            if str(getattr(row, resource.key, None)) == str(wanted):
                return row
        raise ObjectNotFoundError(resource.name, resource.singular, wanted, status_code=404)


def _chosen(rows: list[Any], key: str, number: Any, event: Any) -> Any:
    """Return the object in a list of all: the one of this id, else the newest of this event."""
    known = [each for each in rows if isinstance(each, dict)]
    if number is not None:
        return next((each for each in known if str(each.get(key)) == str(number)), None)
    same = [each for each in known if event in (None, each.get("eventName"))] or known
    return max(same, key=lambda each: each["id"] if isinstance(each.get("id"), int) else -1)


def _segment(name: str, value: Any) -> str:
    text = quote(str(value), safe="")
    if text in (".", ".."):
        raise ConfigError(f"{name}={value!r} cannot be part of an address")
    return text


def _check_count(endpoint: Endpoint, given: Mapping[str, Any], where: str) -> None:
    most = MAX_IDS.get(endpoint.path.partition("/")[0])
    count = len(given.get("distinct_ids", ()))
    if most is not None and count > most:
        raise ConfigError(
            f"{where}: {count:,} distinct_ids are too many for one request; send {most:,} at once"
        )


def _sent(known: Field, value: Any) -> Any:
    if known.joined and isinstance(value, list):
        return ",".join(str(each) for each in value)
    if known.as_text and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value


def _pairs(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parameters of a URL; a list is sent as one parameter for each of its values."""
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, bool):
                pairs.append((name, "true" if each else "false"))
            elif isinstance(each, dict):
                pairs.append((name, json.dumps(each, ensure_ascii=False)))
            elif each is not None:
                pairs.append((name, str(each)))
    return pairs


def _without(value: Any, secrets: set[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: HIDDEN if name in secrets else each for name, each in value.items()}
