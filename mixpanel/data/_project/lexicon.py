"""The table's part on the lexicon: events, properties, schemas, filters and lookup tables."""

from __future__ import annotations

from typing import Any

from mixpanel.data import project
from mixpanel.data._project import uploads
from mixpanel.data._project.table import (
    Endpoint,
    Resource,
    boolean,
    changing,
    choice,
    creating,
    day,
    deleting,
    document,
    getting,
    ids,
    integer,
    items,
    listing,
    object_id,
    text,
    texts,
)

__all__ = ["LEXICON"]

DATA = "{scope}/data-definitions"
NAME = text("name", "Its name.", required=True, positional=True)
SHOWN = (
    boolean("hidden", "Whether it is left out of menus."),
    boolean("dropped", "Whether it is discarded when it arrives."),
    boolean("merged", "Whether it was merged into another."),
)
DESCRIBED = (
    text("display_name", "The name that is shown."),
    text("description", "A description."),
)


def _changes(what: str, key: str, example: str) -> Endpoint:
    field = items(
        "changes", f"Objects with a name and the fields to change, of each of the {what}.",
        required=True, positional=True, alias=key,
    )  # fmt: skip
    return Endpoint(
        name="bulk_update", method="PATCH", path=f"{DATA}/{key}/",
        summary=f"Change several {what}.",
        fields=(field,), returns="list", example=example,
    )  # fmt: skip


EVENTS = Resource(
    name="events", singular="event", model=project.EventDefinition, key="name",
    summary="Events as the lexicon describes them.",
    endpoints=(
        listing(
            f"{DATA}/events/", "List the events.",
            texts("names", "Only these.", alias="name[]"), example="--names 'Order Paid'",
        ),
        changing(
            f"{DATA}/events/", "Change what the lexicon says about an event.",
            NAME, *DESCRIBED, *SHOWN, boolean("verified", "Whether it is marked as verified."),
            texts("tags", "Its tags, by name."), camel=True, danger=("dropped",),
            example="'Order Paid' --description 'A customer has paid' --verified",
        ),
        _changes("events", "events", "'[{\"name\": \"Order Paid\", \"verified\": true}]'"),
        deleting(
            f"{DATA}/events/", "Delete what the lexicon says about an event.", NAME,
            example="'Order Paid'",
        ),
        Endpoint(
            name="history", method="GET", path=f"{DATA}/events/{{name}}/history/",
            summary="List the changes of an event's description.", returns="value",
            example="'Order Paid'",
        ),
        Endpoint(
            name="tracking", method="GET", path=f"{DATA}/events/tracking-metadata/",
            summary="Show since when and how an event is tracked.", returns="value",
            fields=(
                text(
                    "name", "The event.", required=True, positional=True, alias="event_name",
                    place="query",
                ),
            ),
            example="'Order Paid'",
        ),
        Endpoint(
            name="export", method="GET", path=f"{DATA}/export/",
            summary="Have the lexicon exported; Mixpanel sends it by mail.", returns="value",
            fields=(
                texts("types", "What to export.", alias="export_type", place="query", as_text=True),
            ),
            query={"export_type": '["All Events and Properties", "All User Profile Properties"]'},
        ),
    ),
)  # fmt: skip
PROPERTIES = Resource(
    name="properties", singular="property", model=project.PropertyDefinition, key="name",
    summary="Properties as the lexicon describes them.",
    endpoints=(
        listing(
            f"{DATA}/properties/", "List the properties.",
            texts("names", "Only these.", alias="name[]"),
            choice(
                "resource_type", ("Event", "User"), "Only of events, or of users.",
                alias="resourceType",
            ),
            boolean("include_events", "With the events that have them.", alias="includeEvents"),
            boolean("include_custom", "Also custom properties.", alias="includeCustom"),
            example="--resource-type Event",
        ),
        changing(
            f"{DATA}/properties/", "Change what the lexicon says about a property.",
            NAME, choice("resource_type", ("Event", "User"), "Whether of events, or of users."),
            *DESCRIBED, text("example_value", "An example."), *SHOWN,
            boolean("sensitive", "Whether only some may see it."), camel=True, danger=("dropped",),
            example="plan --resource-type Event --display-name Plan",
        ),
        _changes(
            "properties", "properties",
            "'[{\"name\": \"plan\", \"resourceType\": \"Event\", \"hidden\": false}]'",
        ),
        Endpoint(
            name="history", method="GET", path=f"{DATA}/properties/{{name}}/history/",
            summary="List the changes of a property's description.", returns="value",
            fields=(
                choice(
                    "entity_type", ("event", "user"), "Whether of events, or of users.",
                    required=True, place="query",
                ),
            ),
            example="plan --entity-type event",
        ),
    ),
)  # fmt: skip
TAGS = Resource(
    name="tags", singular="tag", model=project.LexiconTag,
    summary="Tags of events and properties.",
    endpoints=(
        listing(f"{DATA}/tags/", "List the tags."),
        creating(f"{DATA}/tags/", "Create a tag.", NAME, example="core"),
        changing(
            f"{DATA}/tags/{{id}}/", "Rename a tag.", text("name", "Its name.", required=True),
            example="1011 --name shop",
        ),
        deleting(
            f"{DATA}/tags/", "Delete a tag, by its name.", NAME, method="POST",
            constant={"delete": True}, example="shop",
        ),
    ),
)  # fmt: skip

# ---- schemas ------------------------------------------------------------------------------------

TYPE = choice(
    "entity_type",
    ("event", "profile", "group"),
    "event, profile or group.",
    required=True,
    positional=True,
    place="path",
)
ENTRY_NAME = text(
    "name", "The event; $user for profiles.", required=True, positional=True, place="path"
)
ENTRIES = items(
    "entries", "Objects with entityType, name and schemaJson.", required=True, positional=True
)
ENTRY = '\'[{"entityType": "event", "name": "Order Paid", "schemaJson": {"description": "Paid"}}]\''


def _schema_only(given: dict[str, Any]) -> Any:
    return given["definition"]


SCHEMAS = Resource(
    name="schemas", singular="schema", model=project.Schema, key="name",
    summary="JSON schemas of events, groups and profiles.",
    endpoints=(
        listing("{scope}/schemas", "List the schemas."),
        Endpoint(
            name="list_of_type", method="GET", path="{scope}/schemas/{entity_type}",
            summary="List the schemas of one type.", returns="list", fields=(TYPE,),
            example="event",
        ),
        getting(
            "{scope}/schemas/{entity_type}/{name}", "Read a schema.", fields=(TYPE, ENTRY_NAME),
            example="event 'Order Paid'",
        ),
        creating(
            "{scope}/schemas/{entity_type}/{name}", "Create or replace a schema.", TYPE, ENTRY_NAME,
            document("definition", "The JSON schema.", required=True), body=_schema_only,
            example="event 'Order Paid' --definition '{\"description\": \"Paid\"}'",
        ),
        changing(
            "{scope}/schemas/{entity_type}/{name}", "Change a schema; null clears a key.", TYPE,
            ENTRY_NAME, document("definition", "What changes of the JSON schema.", required=True),
            body=_schema_only,
            example="event 'Order Paid' --definition '{\"description\": \"Paid\"}'",
        ),
        deleting(
            "{scope}/schemas/{entity_type}/{name}", "Delete a schema.", TYPE, ENTRY_NAME,
            example="event 'Order Paid'",
        ),
        Endpoint(
            name="bulk_create", method="POST", path="{scope}/schemas",
            summary="Create or replace several schemas.", returns="value",
            fields=(ENTRIES, boolean("truncate", "First delete the whole data dictionary.")),
            danger=("truncate",), example=ENTRY,
        ),
        Endpoint(
            name="bulk_update", method="PATCH", path="{scope}/schemas",
            summary="Change several schemas.", returns="value", fields=(ENTRIES,), example=ENTRY,
        ),
        deleting(
            "{scope}/schemas/{entity_type}", "Delete all schemas of one type.", TYPE,
            name="delete_of_type", returns="value", example="event",
        ),
        deleting("{scope}/schemas", "Delete all schemas.", name="delete_all", returns="value"),
    ),
)  # fmt: skip
RULE = choice(
    "rule_event", ("Warn and Accept", "Warn and Hide", "Warn and Drop"),
    "What happens to events that do not fit.",
)  # fmt: skip
ENFORCED = (
    texts("notification_emails", "Who is notified."),
    items("events", "The events that it applies to."),
)
SCHEMA_ENFORCEMENT = Resource(
    name="schema_enforcement", singular="schema enforcement", model=project.SchemaEnforcement,
    summary="What happens to events that do not fit their schema.",
    endpoints=(
        getting(
            f"{DATA}/schema/", "Read the settings.",
            fields=(texts("fields", "Only these.", place="query", joined=True),),
        ),
        creating(
            f"{DATA}/schema/", "Begin to enforce schemas.",
            text("rule_event", RULE.help, required=True), camel=True, danger=True,
            example="--rule-event 'Warn and Accept'",
        ),
        changing(
            f"{DATA}/schema/", "Change the settings.", text("rule_event", RULE.help), *ENFORCED,
            document("properties", "The properties that it applies to."), camel=True,
            example="--notification-emails data@example.org",
        ),
        changing(
            f"{DATA}/schema/", "Replace the settings.", text(
                "rule_event", RULE.help, required=True,
            ),
            texts("notification_emails", "Who is notified.", required=True),
            items("events", "The events.", required=True),
            items("common_properties", "Properties of all events.", required=True),
            items("user_properties", "Properties of users.", required=True),
            integer("schema_id", "The id of the schema."),
            name="replace", method="PUT", camel=True, danger=True,
            example="--rule-event 'Warn and Hide' --notification-emails data@example.org "
            "--events '[]' --common-properties '[]' --user-properties '[]'",
        ),
        deleting(f"{DATA}/schema/", "Stop to enforce schemas."),
    ),
)  # fmt: skip
AUDIT = Resource(
    name="audit", singular="violation", model=project.AuditViolation, key="",
    summary="Events that did not fit their schema.",
    endpoints=(
        listing(
            f"{DATA}/audit/", "List the violations of events and properties.",
            inside=("violations",),
        ),
        Endpoint(
            name="events", method="GET", path=f"{DATA}/audit-events-only/",
            summary="List the violations of events.", returns="list", inside=("violations",),
        ),
    ),
)  # fmt: skip
ANOMALIES = Resource(
    name="anomalies", singular="anomaly", model=project.Anomaly,
    summary="Unusual volumes of events and properties.",
    endpoints=(
        listing(
            f"{DATA}/data-volume-anomalies/", "List the anomalies.",
            text("status", "Only of this status."), integer("limit", "At most so many."),
            inside=("anomalies",),
        ),
        changing(
            f"{DATA}/data-volume-anomalies/", "Change an anomaly.",
            object_id("id", "Its id.", required=True, positional=True),
            text("status", "open or dismissed.", required=True),
            text("anomaly_class", "Event, Property, PropertyTypeDrift or Metric.", required=True),
            camel=True, returns="value", example="1012 --status dismissed --anomaly-class Event",
        ),
        Endpoint(
            name="bulk_update", method="PATCH", path=f"{DATA}/data-volume-anomalies/bulk/",
            summary="Change several anomalies.", returns="value",
            fields=(
                items(
                    "anomalies", "Objects with id and anomalyClass.", required=True,
                    positional=True,
                ),
                text("status", "open or dismissed.", required=True),
            ),
            example="'[{\"id\": 1012, \"anomalyClass\": \"Event\"}]' --status dismissed",
        ),
    ),
)  # fmt: skip

# ---- filters, custom events and properties ------------------------------------------------------

DROP_FILTERS = Resource(
    name="drop_filters", singular="drop filter", model=project.DropFilter,
    summary="Events that Mixpanel discards when they arrive.",
    endpoints=(
        listing(f"{DATA}/events/drop-filters/", "List the drop filters."),
        creating(
            f"{DATA}/events/drop-filters/", "Discard events from now on.",
            text("event_name", "The event.", required=True),
            items("filters", "Which of them; all if empty.", required=True),
            danger=True,
            example="--event-name 'Debug Log' --filters '[]'",
        ),
        changing(
            f"{DATA}/events/drop-filters/", "Change a drop filter.",
            object_id("id", "Its id.", required=True, positional=True),
            text("event_name", "The event."), items("filters", "Which of them."),
            boolean("active", "Whether events are discarded."),
            danger=("active", "filters", "event_name"),
            example="1013 --no-active",
        ),
        deleting(
            f"{DATA}/events/drop-filters/", "Delete a drop filter; its events are kept again.",
            object_id("id", "Its id.", required=True, positional=True), example="1013",
        ),
        Endpoint(
            name="limits", method="GET", path=f"{DATA}/events/drop-filters/limits/",
            summary="Show how many drop filters there may be.", returns="value",
        ),
    ),
)  # fmt: skip
PROPERTY_FIELDS = (
    text("description", "A description."),
    text("display_formula", "How it is computed, of the letters of `composed_properties`."),
    document("composed_properties", "The properties in the formula, by letter."),
    boolean("is_locked", "Whether only its creator may change it."),
    boolean("is_visible", "Whether it is shown in menus."),
)
CUSTOM_PROPERTIES = Resource(
    name="custom_properties", singular="custom property", model=project.CustomProperty,
    summary="Properties that are computed from others.",
    endpoints=(
        listing("{scope}/custom_properties/", "List the custom properties."),
        getting("{scope}/custom_properties/{id}/", "Read a custom property.", example="1014"),
        creating(
            "{scope}/custom_properties/", "Create a custom property.",
            text("name", "Its name.", required=True),
            choice(
                "resource_type", ("events", "people", "group_profiles"), "What has it.",
                required=True,
            ),
            *PROPERTY_FIELDS, text("property_type", "string, number, boolean or datetime."),
            text("example_value", "An example."), text("data_group_id", "The group key."),
            document("behavior", "A behavior, instead of a formula."), camel=True,
            example="--name Total --resource-type events --display-formula 'A * 2' "
            "--composed-properties '{\"A\": {\"resourceType\": \"event\", \"value\": \"amount\"}}'",
        ),
        changing(
            "{scope}/custom_properties/{id}/", "Change a custom property; what is not named stays.",
            text("name", "Its name."), *PROPERTY_FIELDS, method="PUT", camel=True, merge=True,
            example="1014 --name 'Double amount'",
        ),
        deleting("{scope}/custom_properties/{id}/", "Delete a custom property.", example="1014"),
        Endpoint(
            name="validate", method="POST", path="{scope}/custom_properties/validate/",
            summary="Check a custom property without saving it.", returns="value", camel=True,
            fields=(
                text("name", "Its name.", required=True),
                choice(
                    "resource_type", ("events", "people", "group_profiles"), "What has it.",
                    required=True,
                ),
                *PROPERTY_FIELDS,
            ),
            example="--name Total --resource-type events --display-formula 'A * 2'",
        ),
    ),
)  # fmt: skip


def _alternatives(given: dict[str, Any]) -> Any:
    """Return the form of a custom event: the events that it stands for, as objects."""
    import json

    if "alternatives" not in given:
        return given
    several = [{"event": each} for each in given["alternatives"]]
    return {**given, "alternatives": json.dumps(several, ensure_ascii=False)}


EVENT_ID = object_id("id", "Its id.", required=True, positional=True, alias="customEventId")
CUSTOM_EVENTS = Resource(
    name="custom_events", singular="custom event", model=project.CustomEvent,
    summary="Events that stand for several others.",
    endpoints=(
        listing(f"{DATA}/events/", "List the custom events.", query={"custom_event": "true"}),
        creating(
            "{scope}/custom_events/", "Create a custom event.",
            text("name", "Its name.", required=True),
            texts("alternatives", "The events that it stands for.", required=True),
            form=True, body=_alternatives, inside=("custom_event",),
            example="--name 'Any Order' --alternatives 'Order Paid' --alternatives 'Order Shipped'",
        ),
        changing(
            f"{DATA}/events/", "Change a custom event.", EVENT_ID, text("name", "Its name."),
            *DESCRIBED, *SHOWN, texts("tags", "Its tags, by name."), camel=True,
            danger=("dropped",), example="1015 --description 'Orders of any kind'",
        ),
        deleting(
            f"{DATA}/events/", "Delete a custom event.", EVENT_ID, example="1015"
        ),
    ),
)  # fmt: skip

# ---- lookup tables ------------------------------------------------------------------------------

TABLES = f"{DATA}/lookup-tables/"
TABLE_ID = object_id("id", "Its id.", required=True, positional=True, alias="data-group-id")
LOOKUP_TABLES = Resource(
    name="lookup_tables", singular="lookup table", model=project.LookupTable,
    summary="Lookup tables: create, replace, download.",
    endpoints=(
        listing(
            TABLES, "List the lookup tables.",
            object_id("id", "Only this one.", alias="data-group-id"),
        ),
        Endpoint(
            name="upload", method="POST", path=TABLES,
            summary="Create a lookup table from CSV, or replace one.", form=True,
            fields=(
                text("name", "Its name.", required=True, positional=True),
                text(
                    "csv", "The CSV: a header, then rows whose first field is a unique key.",
                    required=True, positional=True, place="none",
                ),
                object_id("id", "The table to replace.", alias="data-group-id"),
            ),
            danger=("id",), run=uploads.upload, example="SKUs @skus.csv",
        ),
        Endpoint(
            name="download", method="GET", path=TABLES + "download-url/",
            summary="Return the CSV of a lookup table.", returns="value", run=uploads.download,
            fields=(
                object_id(
                    "id", "Its id.", required=True, positional=True, alias="data-group-id",
                    place="query",
                ),
            ),
            example="1016",
        ),
        changing(
            TABLES, "Rename a lookup table.", TABLE_ID, text("name", "Its name.", required=True),
            example="1016 --name Products",
        ),
        Endpoint(
            name="delete", method="DELETE", path=TABLES, summary="Delete lookup tables.",
            returns="nothing", danger=True,
            fields=(
                ids("ids", "Their ids.", required=True, positional=True, alias="data-group-ids"),
            ),
            example="1016",
        ),
        Endpoint(
            name="upload_url", method="GET", path=TABLES + "upload-url/",
            summary="Return an address to send CSV to.", model=project.UploadUrl,
            query={"content-type": "text/csv"},
        ),
        Endpoint(
            name="register", method="POST", path=TABLES, form=True,
            summary="Make a lookup table of CSV that was sent.", returns="object",
            fields=(
                text("name", "Its name.", required=True),
                text("path", "What `upload_url` returned as path.", required=True),
                text("key", "What `upload_url` returned as key.", required=True),
                object_id("id", "The table to replace.", alias="data-group-id"),
            ),
            danger=("id",), example="--name SKUs --path lookup/1 --key 1",
        ),
        Endpoint(
            name="upload_status", method="GET", path=TABLES + "upload-status/",
            summary="Show the progress of a large upload.", returns="value",
            fields=(
                text(
                    "upload_id", "Its id.", required=True, positional=True, alias="upload-id",
                    place="query",
                ),
            ),
            example="1",
        ),
        Endpoint(
            name="download_url", method="GET", path=TABLES + "download-url/",
            summary="Return an address of the CSV, which opens without credentials.",
            returns="value",
            fields=(
                object_id(
                    "id", "Its id.", required=True, positional=True, alias="data-group-id",
                    place="query",
                ),
            ),
            example="1016",
        ),
    ),
)  # fmt: skip
RANGE = (
    text("event_name", "The event.", required=True),
    day("from_date", "From this day.", required=True),
    day("to_date", "Up to this day, included.", required=True),
    document("filters", "Only events that match."),
)
DELETIONS = f"{DATA}/events/deletion-requests/"
EVENT_DELETIONS = Resource(
    name="event_deletions", singular="deletion request", model=project.EventDeletion,
    sample="1017",
    summary="Requests to delete events of a name.",
    endpoints=(
        listing(DELETIONS, "List the requests."),
        creating(
            DELETIONS, "Delete events.", *RANGE, camel=True, danger=True,
            example="--event-name 'Debug Log' --from-date 2026-01-01 --to-date 2026-01-02",
        ),
        deleting(
            DELETIONS, "Cancel a request that has not begun.",
            object_id("id", "Its id.", required=True, positional=True),
            name="cancel", returns="object", danger=False, example="1017",
        ),
        Endpoint(
            name="preview", method="POST", path=DELETIONS + "preview-filters/",
            summary="Return how many events a request would delete.", returns="value", camel=True,
            fields=RANGE,
            example="--event-name 'Order Paid' --from-date 2026-01-01 --to-date 2026-01-02",
        ),
    ),
)  # fmt: skip

LEXICON = (
    EVENTS, PROPERTIES, TAGS, SCHEMAS, SCHEMA_ENFORCEMENT, AUDIT, ANOMALIES, DROP_FILTERS,
    CUSTOM_PROPERTIES, CUSTOM_EVENTS, LOOKUP_TABLES, EVENT_DELETIONS,
)  # fmt: skip
