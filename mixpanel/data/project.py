"""What a project has saved: reports, boards, cohorts, the lexicon, flags and other objects.

Each class has the fields that Mixpanel is known to send. A field that it does not send is None, an
unknown one is kept: as an attribute under the name that was sent, and in `to_dict()`. A value of an
unexpected type is kept as it is.
"""

from html import escape
from typing import Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from mixpanel.data._result import plain

__all__ = [
    "Alert", "AlertCount", "AlertValidation", "Annotation", "AnnotationTag", "Anomaly",
    "AuditViolation", "Blueprint", "BusinessContext", "Cohort", "CustomEvent", "CustomProperty",
    "Dashboard", "DataRequest", "DataView", "DropFilter", "EventDefinition", "EventDeletion",
    "Experiment", "FeatureFlag", "FlagLimits", "ImportRun", "Items", "LexiconTag", "LookupTable",
    "Me", "Organization", "PlannedCall", "ProjectInfo", "ProjectObject", "PropertyDefinition",
    "Report", "ReportLink", "SavedBehavior", "SavedMetric", "Schema", "SchemaEnforcement",
    "ServiceAccount", "UploadUrl", "WarehouseImport", "Webhook", "WebhookTest",
]  # fmt: skip

Model = TypeVar("Model", bound="ProjectObject")
Id = int | str
Object = dict[str, Any]
SHOWN = 60  # characters of a value in a repr
SHOWN_IN_NOTEBOOK = 50  # rows
# What only `to_dict` and the attribute show, as a repr ends up in logs.
HIDDEN = frozenset({"token", "password", "secret", "result", "results", "destination_url", "url"})


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class ProjectObject(BaseModel):
    """Base class of the objects of a project: immutable, with every field that was sent."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="allow",
        defer_build=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )
    _sent: Object = PrivateAttr(default_factory=dict)

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_as_sent(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Keep a value of an unexpected type, so that one odd field does not cost the object."""
        try:
            return handler(value)
        except ValidationError:
            return value

    @classmethod
    def read(cls, sent: Object) -> Self:
        """Return the object that Mixpanel sent, whether its names are snake_case or camelCase."""
        known = {_camel(name): name for name in cls.model_fields if "_" in name}
        found = {known.get(name, name): value for name, value in sent.items()}
        made = cls.model_validate(cls._adapted(found))
        made._sent = sent
        return made

    @classmethod
    def _adapted(cls, found: Object) -> Object:
        """Return the fields by our names, where an endpoint has others."""
        return found

    def to_dict(self) -> Object:
        """Return the object with all fields, under the names that Mixpanel sent."""
        return dict(plain(self._sent or self.model_dump(warnings=False)))

    def __repr__(self) -> str:
        shown = []
        for name in self.model_fields_set:
            value = getattr(self, name, None)
            if name in HIDDEN or value is None or isinstance(value, dict | list | tuple):
                continue
            text = repr(value)
            shown.append(f"{name}={text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}")
        order = [*type(self).model_fields]
        shown.sort(key=lambda each: _place(order, each.partition("=")[0]))
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


class Items(list[Model]):
    """A list of objects, with `.df` and a table in notebooks."""

    @property
    def df(self) -> Any:
        """The objects as a pandas DataFrame, a column for each field.

        :raises ConfigError: when pandas is not installed.
        """
        from mixpanel.data.exceptions import ConfigError

        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ConfigError(
                "a DataFrame needs pandas: pip install 'mixpanel-async[pandas]'"
            ) from error
        return pd.DataFrame([each.to_dict() for each in self])

    def _repr_html_(self) -> str:
        rows = [
            {name: value for name, value in each.to_dict().items() if name not in HIDDEN}
            for each in self[:SHOWN_IN_NOTEBOOK]
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in names)}</tr>"
            for row in rows
        )
        more = len(self) - len(rows)
        rest = f"<p>… {more} more rows</p>" if more else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return escape(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


class PlannedCall(BaseModel):
    """A call that was checked and not sent: what `plan` returns.

    `path` is below Mixpanel's address. `body` is what would be sent as JSON or as a form;
    passwords in it are replaced by asterisks.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    method: str
    path: str
    params: dict[str, Any] = Field(default_factory=dict)
    body: Any = None
    form: bool = False
    needs_confirmation: bool = False

    def to_dict(self) -> Object:
        """Return the call as values that JSON can represent."""
        return self.model_dump()

    def __repr__(self) -> str:
        return f"PlannedCall({self.method} {self.path})"

    __str__ = __repr__


# ---- reports and what shows them ----------------------------------------------------------------


class Report(ProjectObject):
    """A saved report ("bookmark"); `params` are what it computes."""

    id: Id | None = None
    name: str | None = None
    type: str | None = None
    description: str | None = None
    params: Object | None = None
    project_id: int | None = None
    workspace_id: int | None = None
    dashboard_id: int | None = None
    created: str | None = None
    modified: str | None = None
    creator_id: int | None = None
    creator_name: str | None = None


class ReportLink(ProjectObject):
    """A report that is not saved, and the end of its address."""

    slug: str | None = None
    type: str | None = None
    params: Object | None = None
    name: str | None = None
    description: str | None = None
    project_id: int | None = None
    bookmark_id: int | None = None


class Dashboard(ProjectObject):
    """A board with reports and texts; `layout` and `contents` only where one is read."""

    id: Id | None = None
    title: str | None = None
    description: str | None = None
    is_private: bool | None = None
    is_restricted: bool | None = None
    is_favorited: bool | None = None
    pinned_date: str | None = None
    filters: list[Any] | None = None
    breakdowns: list[Any] | None = None
    time_filter: Any = None
    layout: Any = None
    contents: Any = None
    creator_id: int | None = None
    creator_name: str | None = None
    created: str | None = None
    modified: str | None = None


class Blueprint(ProjectObject):
    """A template of a board."""

    title_key: str | None = None
    description_key: str | None = None
    number_of_reports: int | None = None


class Cohort(ProjectObject):
    """A saved cohort, and how many users it had when it was last computed."""

    id: Id | None = None
    name: str | None = None
    description: str | None = None
    count: int | None = None
    is_visible: bool | None = None
    is_locked: bool | None = None
    data_group_id: str | None = None
    created: str | None = None
    last_edited: str | None = None
    created_by: Object | None = None


class Annotation(ProjectObject):
    """A note at a point in time; `date` is in the project's timezone."""

    id: Id | None = None
    project_id: int | None = None
    date: str | None = None
    description: str | None = None
    user: Object | None = None
    tags: list[Object] | None = None


class AnnotationTag(ProjectObject):
    """A tag of annotations."""

    id: Id | None = None
    name: str | None = None
    project_id: int | None = None
    has_annotations: bool | None = None


class Webhook(ProjectObject):
    """An address that is called for cohorts and alerts."""

    id: Id | None = None
    name: str | None = None
    url: str | None = None
    is_enabled: bool | None = None
    auth_type: str | None = None
    created: str | None = None
    modified: str | None = None
    creator_id: int | None = None
    creator_name: str | None = None


class WebhookTest(ProjectObject):
    """Whether an address could be called."""

    success: bool | None = None
    status_code: int | None = None
    message: str | None = None


class Alert(ProjectObject):
    """A condition on a report that is checked every `frequency` seconds."""

    id: Id | None = None
    name: str | None = None
    bookmark: Object | None = None
    bookmark_id: int | None = None
    condition: Object | None = None
    frequency: int | None = None
    paused: bool | None = None
    subscriptions: list[Object] | None = None
    notification_windows: Object | None = None
    valid: bool | None = None
    created: str | None = None
    modified: str | None = None
    last_checked: str | None = None
    last_fired: str | None = None


class AlertCount(ProjectObject):
    """How many alerts there are, and may be."""

    anomaly_alerts_count: int | None = None
    alert_limit: int | None = None
    is_below_limit: bool | None = None


class AlertValidation(ProjectObject):
    """Whether an alert still fits a report."""

    alert_id: int | None = None
    alert_name: str | None = None
    valid: bool | None = None
    reason: str | None = None


class SavedMetric(ProjectObject):
    """A saved metric, for use in reports."""

    id: Id | None = None
    name: str | None = None
    type: str | None = None
    description: str | None = None
    definition: Object | None = None
    created: str | None = None
    modified: str | None = None
    verified: bool | None = None


class SavedBehavior(ProjectObject):
    """A saved behavior, for use in reports and metrics."""

    id: Id | None = None
    name: str | None = None
    type: str | None = None
    description: str | None = None
    definition: Object | None = None
    created: str | None = None
    modified: str | None = None
    verified: bool | None = None


# ---- flags --------------------------------------------------------------------------------------


class FeatureFlag(ProjectObject):
    """A feature flag; `ruleset` has its variants and rollout."""

    id: Id | None = None
    key: str | None = None
    name: str | None = None
    status: str | None = None
    description: str | None = None
    context: str | None = None
    serving_method: str | None = None
    tags: list[str] | None = None
    ruleset: Object | None = None
    experiment_id: str | None = None
    project_id: int | None = None
    workspace_id: int | None = None
    data_group_id: str | None = None
    hash_salt: str | None = None
    created: str | None = None
    modified: str | None = None


class FlagLimits(ProjectObject):
    """How many feature flags there may be, and are."""

    limit: int | None = None
    current_usage: int | None = None
    is_trial: bool | None = None
    contract_status: str | None = None


class Experiment(ProjectObject):
    """An experiment."""

    id: Id | None = None
    name: str | None = None
    status: str | None = None
    description: str | None = None
    hypothesis: str | None = None
    variants: Any = None
    metrics: Any = None
    settings: Object | None = None
    feature_flag: Object | None = None
    start_date: str | None = None
    end_date: str | None = None
    created: str | None = None
    updated: str | None = None
    tags: list[str] | None = None


# ---- the lexicon --------------------------------------------------------------------------------


class EventDefinition(ProjectObject):
    """What the lexicon says about an event."""

    id: Id | None = None
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    hidden: bool | None = None
    dropped: bool | None = None
    merged: bool | None = None
    verified: bool | None = None
    tags: list[Any] | None = None
    custom_event_id: int | None = None
    last_modified: str | None = None
    status: str | None = None


class PropertyDefinition(ProjectObject):
    """What the lexicon says about a property."""

    id: Id | None = None
    name: str | None = None
    resource_type: str | None = None
    display_name: str | None = None
    description: str | None = None
    example_value: str | None = None
    hidden: bool | None = None
    dropped: bool | None = None
    merged: bool | None = None
    sensitive: bool | None = None


class LexiconTag(ProjectObject):
    """A tag of events and properties."""

    id: Id | None = None
    name: str | None = None


class Schema(ProjectObject):
    """The JSON schema of an event, a group or profiles, in `definition`."""

    entity_type: str | None = None
    name: str | None = None
    version: str | None = None
    definition: Object | None = None

    @classmethod
    def _adapted(cls, found: Object) -> Object:
        return {**found, "definition": found.get("schemaJson", found.get("definition"))}


class SchemaEnforcement(ProjectObject):
    """What happens to events that do not fit their schema."""

    id: Id | None = None
    rule_event: str | None = None
    state: str | None = None
    notification_emails: list[str] | None = None
    events: list[Any] | None = None
    common_properties: list[Any] | None = None
    user_properties: list[Any] | None = None
    last_modified: str | None = None


class AuditViolation(ProjectObject):
    """Events that did not fit their schema."""

    violation: str | None = None
    name: str | None = None
    event: str | None = None
    platform: str | None = None
    version: str | None = None
    count: int | None = None


class Anomaly(ProjectObject):
    """An unusual volume of an event or property."""

    id: Id | None = None
    event_name: str | None = None
    property_name: str | None = None
    status: str | None = None
    anomaly_class: str | None = None
    actual_count: int | None = None
    predicted_lower: int | None = None
    predicted_upper: int | None = None
    timestamp: str | None = None


class DropFilter(ProjectObject):
    """Events that Mixpanel discards when they arrive."""

    id: Id | None = None
    event_name: str | None = None
    filters: Any = None
    active: bool | None = None
    display_name: str | None = None
    created: str | None = None


class CustomProperty(ProjectObject):
    """A property that is computed from others."""

    id: Id | None = None
    name: str | None = None
    description: str | None = None
    resource_type: str | None = None
    property_type: str | None = None
    display_formula: str | None = None
    composed_properties: Object | None = None
    is_locked: bool | None = None
    is_visible: bool | None = None
    created: str | None = None
    modified: str | None = None

    @classmethod
    def _adapted(cls, found: Object) -> Object:
        number = found.get("customPropertyId", found.get("custom_property_id"))
        return found if number is None else {**found, "id": number}


class CustomEvent(ProjectObject):
    """An event that stands for several others, `alternatives`."""

    id: Id | None = None
    name: str | None = None
    alternatives: list[Object] | None = None

    @classmethod
    def _adapted(cls, found: Object) -> Object:
        # A row of the lexicon has an id of its own, besides the one by which it is changed.
        number = found.get("customEventId", found.get("custom_event_id"))
        return found if number is None else {**found, "id": number}


class LookupTable(ProjectObject):
    """A lookup table; `token` is the id of `PUT /lookup-tables`, where it is sent."""

    id: Id | None = None
    name: str | None = None
    token: str | None = None
    created_at: str | None = None
    last_modified_at: str | None = None
    has_mapped_properties: bool | None = None


class UploadUrl(ProjectObject):
    """An address to which a file may be sent, without credentials."""

    url: str | None = None
    path: str | None = None
    key: str | None = None


class EventDeletion(ProjectObject):
    """A request to delete events of a name and a range of days."""

    id: Id | None = None
    event_name: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    filters: Any = None
    status: str | None = None
    deleted_events_count: int | None = None
    created: str | None = None


# ---- people, accounts and data from elsewhere ---------------------------------------------------


class DataRequest(ProjectObject):
    """A GDPR or CCPA request to retrieve or delete the data of people.

    `status` is PENDING, STAGING, STARTED, SUCCESS, FAILURE, REVOKED, NOT_FOUND or UNKNOWN.
    `result` is the address of the retrieved data, which opens without credentials.
    """

    id: Id | None = None
    status: str | None = None
    compliance_type: str | None = None
    project_id: int | None = None
    date_requested: str | None = None
    requesting_user: str | None = None
    distinct_id_count: int | None = None
    distinct_ids: list[str] | None = None
    result: str | None = None

    @classmethod
    def _adapted(cls, found: Object) -> Object:
        number = found.get("task_id") or found.get("tracking_id") or found.get("id")
        links = (found.get(name) for name in ("result", "results", "destination_url"))
        link = next((each for each in links if isinstance(each, str) and each), None)
        return {**found, "id": number, "result": link}


class ServiceAccount(ProjectObject):
    """A service account; `token` is its secret, which only `create` returns."""

    id: Id | None = None
    username: str | None = None
    role: str | None = None
    email: str | None = None
    expires: str | None = None
    last_used: str | None = None
    created: str | None = None
    creator: Any = None
    token: str | None = None


class WarehouseImport(ProjectObject):
    """An import from a data warehouse; `run_every` is in nanoseconds."""

    id: Id | None = None
    import_type: str | None = None
    sync_mode: str | None = None
    paused: bool | None = None
    run_every: int | None = None
    warehouse_source_id: Id | None = None
    table_params: Object | None = None
    created: str | None = None
    creator_name: str | None = None
    last_dispatch: str | None = None
    is_deleted: bool | None = None


class ImportRun(ProjectObject):
    """One run of an import; `status` is RUNNING, SUCCEEDED, FAILED or CANCELLED."""

    run_id: str | None = None
    status: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    num_events_imported: int | None = None


class BusinessContext(ProjectObject):
    """A text about a project or organization."""

    level: str | None = None
    content: str | None = None
    organization_id: int | None = None
    project_id: Id | None = None


class ProjectInfo(ProjectObject):
    """A project that the credentials may use."""

    id: Id | None = None
    name: str | None = None
    organization_id: int | None = None
    timezone: str | None = None
    domain: str | None = None
    type: str | None = None
    has_workspaces: bool | None = None


class DataView(ProjectObject):
    """A data view ("workspace") of a project."""

    id: Id | None = None
    name: str | None = None
    project_id: int | None = None
    description: str | None = None
    is_default: bool | None = None
    is_global: bool | None = None
    is_restricted: bool | None = None
    is_visible: bool | None = None


class Organization(ProjectObject):
    """An organization that the credentials belong to."""

    id: Id | None = None
    name: str | None = None
    role: str | None = None
    permissions: list[Any] | None = None


class Me(ProjectObject):
    """Who the credentials belong to, and what they may use, by id."""

    user_id: int | None = None
    user_email: str | None = None
    user_name: str | None = None
    organizations: dict[str, Object] | None = None
    projects: dict[str, Object] | None = None
    workspaces: dict[str, Object] | None = None
