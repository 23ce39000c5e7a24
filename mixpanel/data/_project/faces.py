"""`ws.project`: the resources of the table as attributes, for async and for sync code."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from mixpanel._runtime import background_loop
from mixpanel.data._project.administration import ME
from mixpanel.data._project.calls import PreparedCall, ProjectCalls
from mixpanel.data._project.resources import BY_NAME, PROJECTS, RESOURCES
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.project import Items, ProjectObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from mixpanel.data import project
    from mixpanel.data._project.table import Endpoint
    from mixpanel.data._project.table import Resource as Table
    from mixpanel.data._workspace.core import WorkspaceCore
    from mixpanel.data.project import PlannedCall

__all__ = ["AsyncProject", "AsyncResource", "Project", "Resource"]

Model = TypeVar("Model", bound=ProjectObject)
P = ParamSpec("P")
R = TypeVar("R")
USUAL = ("list", "get", "create", "update", "delete")


def _signature(endpoint: Endpoint) -> inspect.Signature:
    """Return the signature of an endpoint, as help shows it."""
    kinds, unset = inspect.Parameter, inspect.Parameter.empty
    parameters = [
        kinds(
            each.name,
            kinds.POSITIONAL_OR_KEYWORD if each.positional else kinds.KEYWORD_ONLY,
            default=unset if each.required and not each.env else None,
        )
        for each in endpoint.arguments
    ]
    if endpoint.danger:
        parameters.append(kinds("confirm", kinds.KEYWORD_ONLY, default=False))
    if endpoint.run is None and not endpoint.in_list:
        parameters.append(kinds("extra", kinds.KEYWORD_ONLY, default=None))
    return inspect.Signature(parameters)


def _documentation(endpoint: Endpoint) -> str:
    lines = [endpoint.summary, ""]
    for each in endpoint.arguments:
        choices = f" One of {', '.join(each.choices)}." if each.choices else ""
        lines.append(f"- `{each.name}`: {each.help}{choices}")
    return "\n".join(lines).strip()


class _Described:
    """What both faces of a resource share: its table, its help, and its further methods."""

    _table: Table

    def _endpoint(self, name: str) -> Endpoint:
        found = self._table.find(name)
        if found is None:
            known = ", ".join(each.name for each in self._table)
            raise ConfigError(f"{self._table.name} has no method {name}: it has {known}")
        return found

    def __dir__(self) -> list[str]:
        names = {name for name in super().__dir__() if name not in USUAL}
        return sorted({*names, *(each.name for each in self._table)})

    def __repr__(self) -> str:
        lines = [f"{self._table.name}: {self._table.summary}"]
        lines += [f"  {each.name}{_signature(each)}" for each in self._table]
        return "\n".join(lines)

    def _further(self, name: str) -> Endpoint:
        if name.startswith("_"):
            raise AttributeError(name)
        found = self._table.find(name)
        if found is None:
            known = ", ".join(each.name for each in self._table)
            raise AttributeError(f"{self._table.name} has no {name!r}: it has {known}")
        return found


def _named(call: Callable[..., Any], endpoint: Endpoint) -> Any:
    call.__name__ = call.__qualname__ = endpoint.name
    call.__doc__ = _documentation(endpoint)
    cast("Any", call).__signature__ = _signature(endpoint)
    return call


class AsyncResource(_Described, Generic[Model]):
    """One kind of objects: list, read, create, change and delete them.

    The table of methods and their arguments is the repr of a resource, as of
    `ws.project.dashboards`. A method that cannot be undone needs `confirm=True`. `extra` adds
    fields to what is sent, under the names of Mixpanel's.
    """

    def __init__(self, calls: ProjectCalls, table: Table) -> None:
        self._calls = calls
        self._table = table

    async def list(
        self, *args: Any, extra: Mapping[str, Any] | None = None, **filters: Any
    ) -> Items[Model]:
        """Return all objects, or those that match the filters.

        :raises APIError: when Mixpanel refuses.
        """
        found: Items[Model] = await self._call("list", args, filters, extra=extra)
        return found

    async def get(self, *key: Any, extra: Mapping[str, Any] | None = None, **named: Any) -> Model:
        """Return one object, usually by its id.

        :raises ObjectNotFoundError: when there is none.
        :raises APIError: when Mixpanel refuses.
        """
        found: Model = await self._call("get", key, named, extra=extra)
        return found

    async def create(
        self,
        *args: Any,
        confirm: bool = False,
        extra: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Model:
        """Create an object and return it.

        :raises ConflictError: when there is one already.
        :raises APIError: when Mixpanel refuses.
        """
        made: Model = await self._call("create", args, fields, confirm=confirm, extra=extra)
        return made

    async def update(
        self,
        *key: Any,
        confirm: bool = False,
        extra: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Model:
        """Change the given fields of an object and return it.

        :raises ObjectNotFoundError: when there is none.
        :raises APIError: when Mixpanel refuses.
        """
        made: Model = await self._call("update", key, fields, confirm=confirm, extra=extra)
        return made

    async def delete(self, *key: Any, confirm: bool = False, **named: Any) -> None:
        """Delete an object; `confirm=True` is required.

        :raises ObjectNotFoundError: when there is none.
        :raises APIError: when Mixpanel refuses.
        """
        await self._call("delete", key, named, confirm=confirm)

    async def plan(
        self, method: str, *args: Any, extra: Mapping[str, Any] | None = None, **named: Any
    ) -> PlannedCall:
        """Check a call and return what it would send, without changing anything.

        >>> await ws.project.dashboards.plan("delete", 7)  # doctest: +SKIP
        PlannedCall(DELETE /api/app/projects/4242/dashboards/7)

        :raises ConfigError: for invalid arguments.
        """
        return await self._calls.plan(self._table, self._endpoint(method), args, named, extra)

    async def _call(
        self,
        name: str,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        *,
        confirm: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> Any:
        endpoint = self._endpoint(name)
        return await self._calls.call(
            self._table, endpoint, args, named, confirm=confirm, extra=extra
        )

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        endpoint = self._further(name)

        async def call(
            *args: Any,
            confirm: bool = False,
            extra: Mapping[str, Any] | None = None,
            **named: Any,
        ) -> Any:
            return await self._call(endpoint.name, args, named, confirm=confirm, extra=extra)

        return cast("Callable[..., Awaitable[Any]]", _named(call, endpoint))


class Resource(_Described, Generic[Model]):
    """The blocking twin of `AsyncResource`, with its methods and errors."""

    def __init__(self, twin: AsyncResource[Model]) -> None:
        self._twin = twin
        self._table = twin._table

    def list(
        self, *args: Any, extra: Mapping[str, Any] | None = None, **filters: Any
    ) -> Items[Model]:
        """Return all objects, or those that match the filters.

        :raises APIError: when Mixpanel refuses.
        """
        return self._run(self._twin.list, *args, extra=extra, **filters)

    def get(self, *key: Any, extra: Mapping[str, Any] | None = None, **named: Any) -> Model:
        """Return one object, usually by its id.

        :raises ObjectNotFoundError: when there is none.
        :raises APIError: when Mixpanel refuses.
        """
        return self._run(self._twin.get, *key, extra=extra, **named)

    def create(
        self,
        *args: Any,
        confirm: bool = False,
        extra: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Model:
        """Create an object and return it.

        :raises ConflictError: when there is one already.
        :raises APIError: when Mixpanel refuses.
        """
        return self._run(self._twin.create, *args, confirm=confirm, extra=extra, **fields)

    def update(
        self,
        *key: Any,
        confirm: bool = False,
        extra: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Model:
        """Change the given fields of an object and return it.

        :raises ObjectNotFoundError: when there is none.
        :raises APIError: when Mixpanel refuses.
        """
        return self._run(self._twin.update, *key, confirm=confirm, extra=extra, **fields)

    def delete(self, *key: Any, confirm: bool = False, **named: Any) -> None:
        """Delete an object; `confirm=True` is required.

        :raises ObjectNotFoundError: when there is none.
        :raises APIError: when Mixpanel refuses.
        """
        self._run(self._twin.delete, *key, confirm=confirm, **named)

    def plan(
        self, method: str, *args: Any, extra: Mapping[str, Any] | None = None, **named: Any
    ) -> PlannedCall:
        """Check a call and return what it would send, without changing anything.

        >>> ws.project.dashboards.plan("delete", 7)  # doctest: +SKIP
        PlannedCall(DELETE /api/app/projects/4242/dashboards/7)

        :raises ConfigError: for invalid arguments.
        """
        return self._run(self._twin.plan, method, *args, extra=extra, **named)

    def _run(
        self, call: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **named: P.kwargs
    ) -> R:
        background_loop.refuse_in_async(
            f"Workspace.project.{self._table.name}.{call.__name__}", "use an AsyncWorkspace"
        )
        return background_loop.run(call, *args, **named)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        endpoint = self._further(name)

        def call(*args: Any, **named: Any) -> Any:
            return self._run(getattr(self._twin, endpoint.name), *args, **named)

        return cast("Callable[..., Any]", _named(call, endpoint))


class AsyncProject:
    """What a project has saved: reports, boards, cohorts, the lexicon, flags and so on.

    >>> for board in await ws.project.dashboards.list():  # doctest: +SKIP
    ...     print(board.id, board.title)

    Each attribute is a kind of objects; its repr lists its methods. None of the calls costs one of
    the hourly queries.
    """

    reports: AsyncResource[project.Report]
    report_links: AsyncResource[project.ReportLink]
    dashboards: AsyncResource[project.Dashboard]
    cohorts: AsyncResource[project.Cohort]
    annotations: AsyncResource[project.Annotation]
    annotation_tags: AsyncResource[project.AnnotationTag]
    webhooks: AsyncResource[project.Webhook]
    alerts: AsyncResource[project.Alert]
    metrics: AsyncResource[project.SavedMetric]
    behaviors: AsyncResource[project.SavedBehavior]
    feature_flags: AsyncResource[project.FeatureFlag]
    experiments: AsyncResource[project.Experiment]
    events: AsyncResource[project.EventDefinition]
    properties: AsyncResource[project.PropertyDefinition]
    tags: AsyncResource[project.LexiconTag]
    schemas: AsyncResource[project.Schema]
    schema_enforcement: AsyncResource[project.SchemaEnforcement]
    audit: AsyncResource[project.AuditViolation]
    anomalies: AsyncResource[project.Anomaly]
    drop_filters: AsyncResource[project.DropFilter]
    custom_properties: AsyncResource[project.CustomProperty]
    custom_events: AsyncResource[project.CustomEvent]
    lookup_tables: AsyncResource[project.LookupTable]
    event_deletions: AsyncResource[project.EventDeletion]
    service_accounts: AsyncResource[project.ServiceAccount]
    retrievals: AsyncResource[project.DataRequest]
    deletions: AsyncResource[project.DataRequest]
    warehouse_imports: AsyncResource[project.WarehouseImport]
    projects: AsyncResource[project.ProjectInfo]
    views: AsyncResource[project.DataView]
    organizations: AsyncResource[project.Organization]
    business_context: AsyncResource[project.BusinessContext]

    def __init__(
        self,
        core: WorkspaceCore,
        view: Callable[[], Awaitable[int | None]],
        timezone: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._calls = ProjectCalls(core, view, timezone)
        for each in RESOURCES:
            setattr(self, each.name, AsyncResource(self._calls, each))

    async def me(self) -> project.Me:
        """Return who the credentials belong to, and what they may use.

        :raises APIError: when Mixpanel refuses.
        """
        found: project.Me = await self._calls._call(PreparedCall(PROJECTS, ME, "/api/app/me", {}))
        return found

    def __repr__(self) -> str:
        return _overview(self._calls)


class Project:
    """The blocking twin of `AsyncProject`.

    >>> for board in ws.project.dashboards.list():  # doctest: +SKIP
    ...     print(board.id, board.title)
    """

    reports: Resource[project.Report]
    report_links: Resource[project.ReportLink]
    dashboards: Resource[project.Dashboard]
    cohorts: Resource[project.Cohort]
    annotations: Resource[project.Annotation]
    annotation_tags: Resource[project.AnnotationTag]
    webhooks: Resource[project.Webhook]
    alerts: Resource[project.Alert]
    metrics: Resource[project.SavedMetric]
    behaviors: Resource[project.SavedBehavior]
    feature_flags: Resource[project.FeatureFlag]
    experiments: Resource[project.Experiment]
    events: Resource[project.EventDefinition]
    properties: Resource[project.PropertyDefinition]
    tags: Resource[project.LexiconTag]
    schemas: Resource[project.Schema]
    schema_enforcement: Resource[project.SchemaEnforcement]
    audit: Resource[project.AuditViolation]
    anomalies: Resource[project.Anomaly]
    drop_filters: Resource[project.DropFilter]
    custom_properties: Resource[project.CustomProperty]
    custom_events: Resource[project.CustomEvent]
    lookup_tables: Resource[project.LookupTable]
    event_deletions: Resource[project.EventDeletion]
    service_accounts: Resource[project.ServiceAccount]
    retrievals: Resource[project.DataRequest]
    deletions: Resource[project.DataRequest]
    warehouse_imports: Resource[project.WarehouseImport]
    projects: Resource[project.ProjectInfo]
    views: Resource[project.DataView]
    organizations: Resource[project.Organization]
    business_context: Resource[project.BusinessContext]

    def __init__(self, twin: AsyncProject) -> None:
        self._twin = twin
        for name in BY_NAME:
            setattr(self, name, Resource(getattr(twin, name)))

    def me(self) -> project.Me:
        """Return who the credentials belong to, and what they may use.

        :raises APIError: when Mixpanel refuses.
        """
        background_loop.refuse_in_async("Workspace.project.me", "use an AsyncWorkspace")
        return background_loop.run(self._twin.me)

    def __repr__(self) -> str:
        return _overview(self._twin._calls)


def _overview(calls: ProjectCalls) -> str:
    width = max(map(len, BY_NAME))
    lines = [f"project {calls.api.project_id}:"]
    lines += [f"  {each.name.ljust(width)}  {each.summary}" for each in RESOURCES]
    return "\n".join(lines)
