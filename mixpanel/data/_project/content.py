"""The table's part on reports, boards, cohorts, annotations, webhooks, alerts and metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mixpanel.data import project
from mixpanel.data._project.table import (
    Endpoint,
    Field,
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
    time,
)

__all__ = ["CONTENT"]

REPORT_TYPES = ("insights", "funnels", "retention", "flows", "user", "launch-analysis")
IDS = ids("ids", "Only those with these ids.", joined=True)
V2 = {"v": 2}


def bulk_delete(path: str, what: str, alias: str, example: str) -> Endpoint:
    """Return the endpoint that deletes several objects."""
    which = ids("ids", f"The ids of the {what}.", required=True, positional=True, alias=alias)
    return Endpoint(
        name="bulk_delete", method="POST", path=path, summary=f"Delete several {what}.",
        fields=(which,), returns="nothing", danger=True, example=example,
    )  # fmt: skip


def bulk_update(path: str, what: str, alias: str, example: str) -> Endpoint:
    """Return the endpoint that changes several objects."""
    which = items(
        "changes", "Objects with an id and the fields to change.", required=True, positional=True,
        alias=alias,
    )  # fmt: skip
    return Endpoint(
        name="bulk_update", method="POST", path=path, summary=f"Change several {what}.",
        fields=(which,), returns="nothing", example=example,
    )  # fmt: skip


# ---- reports ------------------------------------------------------------------------------------

REPORT_FIELDS = (
    text("description", "A description."),
    text("icon", "Its icon."),
    integer("dashboard_id", "The board that shows it; Mixpanel may require one for a new report."),
    boolean("is_visibility_restricted", "Whether only some may see it."),
    boolean("is_modification_restricted", "Whether only some may change it."),
)
REPORTS = Resource(
    name="reports", singular="report", model=project.Report,
    summary="Saved reports (bookmarks).",
    endpoints=(
        listing(
            "{scope}/bookmarks", "List the saved reports.",
            choice("type", REPORT_TYPES, "Only reports of this type."), IDS,
            query=V2, example="--type insights",
        ),
        getting("{scope}/bookmarks/{id}", "Read a report.", query=V2, example="1001"),
        creating(
            "{scope}/bookmarks", "Save a report.",
            text("name", "Its name.", required=True),
            choice("type", REPORT_TYPES, "Its type.", required=True),
            document("params", "What it computes.", required=True),
            *REPORT_FIELDS, constant=V2,
            example="--name Trend --type insights --params @trend.json",
        ),
        changing(
            "{scope}/bookmarks/{id}", "Change a report.",
            text("name", "Its name."), document("params", "What it computes."), *REPORT_FIELDS,
            constant=V2, example="1001 --name 'Weekly trend'",
        ),
        deleting("{scope}/bookmarks/{id}", "Delete a report.", example="1001"),
        bulk_delete("{scope}/bookmarks/bulk-delete", "reports", "bookmark_ids", "1001"),
        bulk_update(
            "{scope}/bookmarks/bulk-update", "reports", "bookmarks",
            "'[{\"id\": 1001, \"name\": \"Trend\"}]'",
        ),
        Endpoint(
            name="history", method="GET", path="{scope}/bookmarks/{id}/history",
            summary="List the changes of a report.", returns="value", example="1001",
        ),
        Endpoint(
            name="dashboard_ids", method="GET", path="{scope}/bookmarks/{id}/linked-dashboard-ids",
            summary="List the ids of the boards that show a report.", returns="value",
            example="1001",
        ),
    ),
)  # fmt: skip
REPORT_LINKS = Resource(
    name="report_links", singular="report link", model=project.ReportLink, key="slug",
    summary="Addresses of reports that are not saved.",
    endpoints=(
        getting(
            "{project}/bookmark-urls/{slug}/", "Read what an address shows.",
            example="Trend_2026_1",
        ),
        creating(
            "{project}/bookmark-urls/", "Give a report an address.",
            text(
                "slug", "The end of the address, chosen by you: 12 of 0-9, a-z, A-Z, _ and -.",
                required=True,
            ),
            choice("type", REPORT_TYPES, "The type of the report.", required=True),
            document("params", "What the report computes.", required=True),
            example="--slug Trend_2026_2 --type insights --params @trend.json",
        ),
    ),
)  # fmt: skip

# ---- boards -------------------------------------------------------------------------------------

BOARD_FIELDS = (
    text("description", "A description."),
    boolean("is_private", "Whether only its creator sees it."),
    boolean("is_restricted", "Whether only some may change it."),
    items("filters", "Filters for all reports."),
    items("breakdowns", "Breakdowns for all reports."),
    document("time_filter", "The time range for all reports."),
)
REPORT_ID = integer("report_id", "The id of the report.", required=True, positional=True)


def _add_report(given: dict[str, Any]) -> Any:
    params = {"source_bookmark_id": given["report_id"]}
    what = {"action": "create", "content_type": "report", "content_params": params}
    return {"content": what}


def _remove_report(given: dict[str, Any]) -> Any:
    what = {"action": "delete", "content_type": "report", "content_id": given["report_id"]}
    return {"content": what}


def _marking(name: str, method: str, path: str, summary: str) -> Endpoint:
    return Endpoint(
        name=name, method=method, path=path, summary=summary, returns="nothing", example="1002"
    )


DASHBOARDS = Resource(
    name="dashboards", singular="dashboard", model=project.Dashboard,
    summary="Boards with reports and texts.",
    endpoints=(
        listing("{scope}/dashboards", "List the boards.", IDS),
        getting("{scope}/dashboards/{id}", "Read a board with its contents.", example="1002"),
        creating(
            "{scope}/dashboards", "Create a board.",
            text("title", "Its title.", required=True), *BOARD_FIELDS,
            integer("duplicate", "The id of a board to copy."),
            items("rows", "Rows of contents: texts and reports."),
            example="--title Weekly",
        ),
        changing(
            "{scope}/dashboards/{id}", "Change a board.",
            text("title", "Its title."), *BOARD_FIELDS,
            document("layout", "Where its contents stand."),
            document("content", "A content to add, change or remove."),
            example="1002 --title 'Every week'",
        ),
        deleting("{scope}/dashboards/{id}", "Delete a board; its reports stay.", example="1002"),
        bulk_delete("{scope}/dashboards/bulk-delete", "boards", "dashboard_ids", "1002"),
        _marking(
            "favorite", "POST", "{scope}/dashboards/{id}/favorites", "Mark a board as a favorite.",
        ),
        _marking(
            "unfavorite", "DELETE", "{scope}/dashboards/{id}/favorites", "Unmark a favorite board.",
        ),
        _marking("pin", "POST", "{scope}/dashboards/{id}/pin", "Pin a board for everyone."),
        _marking("unpin", "DELETE", "{scope}/dashboards/{id}/pin", "Unpin a board."),
        Endpoint(
            name="add_report", method="PATCH", path="{scope}/dashboards/{id}",
            summary="Show a copy of a saved report on a board.", fields=(REPORT_ID,),
            body=_add_report, example="1002 1001",
        ),
        Endpoint(
            name="remove_report", method="PATCH", path="{scope}/dashboards/{id}",
            summary="Take a report off a board, which deletes that copy.", fields=(REPORT_ID,),
            body=_remove_report, danger=True, example="1002 1001",
        ),
        Endpoint(
            name="update_text", method="PATCH", path="{scope}/dashboards/{id}/text-cards/{card_id}",
            summary="Change a text on a board.", returns="nothing",
            fields=(text("markdown", "The text.", required=True),),
            example="1002 1 --markdown Hello",
        ),
        Endpoint(
            name="update_report_link", method="PATCH",
            path="{scope}/dashboards/{id}/report-links/{link_id}",
            summary="Change how a board shows a report.", returns="nothing",
            fields=(text("type", "embedded or full_screen.", required=True),),
            example="1002 1 --type embedded",
        ),
        Endpoint(
            name="with_report", method="GET",
            path="{scope}/dashboards/bookmarks/{report_id}/dashboard-ids",
            summary="List the ids of the boards that show a report.", returns="value",
            example="1001",
        ),
        Endpoint(
            name="erf", method="GET", path="{scope}/dashboards/{id}/erf",
            summary="Read a board in Mixpanel's own exchange format.", returns="value",
            example="1002",
        ),
        Endpoint(
            name="blueprints", method="GET", path="{scope}/dashboards/blueprints-all",
            summary="List the templates of boards.", returns="list", model=project.Blueprint,
            inside=("templates",),
            fields=(boolean("include_reports", "With their reports.", place="query"),),
        ),
        Endpoint(
            name="create_from_blueprint", method="POST", path="{scope}/dashboards/blueprints",
            summary="Create a board from a template.",
            fields=(text("template_type", "The template.", required=True, positional=True),),
            example="company_kpis",
        ),
        Endpoint(
            name="blueprint_config", method="GET", path="{scope}/dashboards/{id}/blueprint-config",
            summary="Read what a template needs to know.", returns="value", example="1002",
        ),
        Endpoint(
            name="update_blueprint_cohorts", method="PUT",
            path="{scope}/dashboards/blueprints/cohorts",
            summary="Choose the cohorts of a template.", returns="nothing",
            fields=(items("cohorts", "The cohorts.", required=True),), example="--cohorts '[]'",
        ),
        Endpoint(
            name="finish_blueprint", method="POST", path="{scope}/dashboards/blueprints/finish",
            summary="Finish a board that was made from a template.",
            fields=(
                integer("dashboard_id", "The board.", required=True),
                items("cards", "Its texts and reports.", required=True),
            ),
            example="--dashboard-id 1002 --cards '[]'",
        ),
        Endpoint(
            name="create_rca", method="POST", path="{scope}/dashboards/rca",
            summary="Create a board that analyzes the causes of a change.",
            fields=(
                integer("rca_source_id", "The metric or alert to analyze.", required=True),
                document("rca_source_data", "Its type, and the date.", required=True),
            ),
            example="--rca-source-id 1001 --rca-source-data '{\"type\": \"metric\"}'",
        ),
    ),
)  # fmt: skip

# ---- cohorts ------------------------------------------------------------------------------------


def _flattened(given: dict[str, Any]) -> Any:
    """Return the body of a cohort: its definition stands among the other fields."""
    return {
        **(given.get("definition") or {}),
        **{k: v for k, v in given.items() if k != "definition"},
    }


COHORT_FIELDS = (
    text("description", "A description."),
    document("definition", "Who is in it: `selector` and `behaviors`."),
    text("data_group_id", "The group key, for a cohort of groups."),
    boolean("is_locked", "Whether only its creator may change it."),
    boolean("is_visible", "Whether it is shown in lists."),
)
COHORTS = Resource(
    name="cohorts", singular="cohort", model=project.Cohort,
    summary="Saved cohorts.",
    endpoints=(
        listing(
            "{scope}/cohorts", "List the cohorts.",
            text("data_group_id", "Only cohorts of groups of this key."), IDS,
        ),
        getting("{scope}/cohorts/{id}", "Read a cohort.", example="1003"),
        creating(
            "{scope}/cohorts", "Create a cohort.",
            text("name", "Its name.", required=True), *COHORT_FIELDS, body=_flattened,
            example="--name Buyers --definition @buyers.json",
        ),
        changing(
            "{scope}/cohorts/{id}", "Change a cohort.",
            text("name", "Its name."), *COHORT_FIELDS, body=_flattened,
            example="1003 --name 'Good buyers'",
        ),
        deleting("{scope}/cohorts/{id}", "Delete a cohort.", example="1003"),
        bulk_delete("{scope}/cohorts/bulk-delete", "cohorts", "cohort_ids", "1003"),
        bulk_update(
            "{scope}/cohorts/bulk-update", "cohorts", "cohorts",
            "'[{\"id\": 1003, \"name\": \"Buyers\"}]'",
        ),
    ),
)  # fmt: skip

# ---- annotations --------------------------------------------------------------------------------

ANNOTATIONS = Resource(
    name="annotations", singular="annotation", model=project.Annotation,
    summary="Notes at a point in time, shown in reports.",
    endpoints=(
        listing(
            "{scope}/annotations/", "List the annotations.",
            day("from_date", "From this day.", alias="fromDate"),
            day("to_date", "Up to this day, included.", alias="toDate"),
            ids("tags", "Only with these tags, by id.", joined=True),
            example="--from-date 2026-01-01 --to-date 2026-01-31",
        ),
        getting("{scope}/annotations/{id}/", "Read an annotation.", example="1004"),
        creating(
            "{scope}/annotations/", "Create an annotation.",
            time("date", "When, in the project's timezone.", required=True),
            text("description", "What happened.", required=True),
            ids("tags", "The ids of its tags."),
            integer("user_id", "Whose it is, if not yours."),
            example="--date '2026-01-31 09:30:00' --description Launch",
        ),
        changing(
            "{scope}/annotations/{id}/", "Change an annotation.",
            text("description", "What happened."), ids("tags", "The ids of its tags."),
            example="1004 --description 'Launch in Norway'",
        ),
        deleting("{scope}/annotations/{id}/", "Delete an annotation.", example="1004"),
    ),
)  # fmt: skip
ANNOTATION_TAGS = Resource(
    name="annotation_tags", singular="annotation tag", model=project.AnnotationTag, sample="1022",
    summary="Tags of annotations.",
    endpoints=(
        listing("{scope}/annotations/tags/", "List the tags of annotations."),
        creating(
            "{scope}/annotations/tags/", "Create a tag.",
            text("name", "Its name.", required=True, positional=True), example="release",
        ),
    ),
)  # fmt: skip

# ---- webhooks and alerts ------------------------------------------------------------------------

WEBHOOK_FIELDS = (
    choice("auth_type", ("basic", "unsupported"), "How it authenticates."),
    text("username", "The user name for basic authentication."),
    text("password", "The password for basic authentication.", is_secret=True),
)
WEBHOOKS = Resource(
    name="webhooks", singular="webhook", model=project.Webhook,
    summary="Addresses that Mixpanel calls.",
    endpoints=(
        listing("{scope}/webhooks/", "List the webhooks."),
        creating(
            "{scope}/webhooks/", "Create a webhook.",
            text("name", "Its name.", required=True), text("url", "Its address.", required=True),
            *WEBHOOK_FIELDS, example="--name Sync --url https://example.org/sync",
        ),
        changing(
            "{scope}/webhooks/{id}/", "Change a webhook.",
            text("name", "Its name."), text("url", "Its address."), *WEBHOOK_FIELDS,
            boolean("is_enabled", "Whether it is called."), example="1005 --no-is-enabled",
        ),
        deleting("{scope}/webhooks/{id}/", "Delete a webhook.", example="1005"),
        Endpoint(
            name="test", method="POST", path="{scope}/webhooks/test/",
            summary="Let Mixpanel call an address once.", model=project.WebhookTest,
            fields=(
                text("url", "The address.", required=True, positional=True),
                text("name", "A name."), *WEBHOOK_FIELDS,
            ),
            example="https://example.org/sync",
        ),
    ),
)  # fmt: skip
ALERT_FIELDS = (
    document("condition", "When it fires."),
    integer("frequency", "Seconds between two checks."),
    boolean("paused", "Whether it is not checked."),
    items("subscriptions", "Who is notified."),
    document("notification_windows", "When they are notified."),
)


def _required(fields: tuple[Field, ...], *names: str) -> tuple[Field, ...]:
    return tuple(replace(each, required=each.name in names) for each in fields)


ALERTS = Resource(
    name="alerts", singular="alert", model=project.Alert,
    summary="Alerts on reports.",
    endpoints=(
        listing(
            "{scope}/alerts/custom/", "List the alerts.",
            integer("bookmark_id", "Only those of this report."),
            boolean("skip_user_filter", "Also those of others."),
        ),
        getting("{scope}/alerts/custom/{id}/", "Read an alert.", example="1006"),
        creating(
            "{scope}/alerts/custom/", "Create an alert.",
            integer("bookmark_id", "The id of its report.", required=True),
            text("name", "Its name.", required=True),
            *_required(ALERT_FIELDS, "condition", "frequency", "paused", "subscriptions"),
            example="--bookmark-id 1001 --name Drop --condition '{\"op\": \"<\", \"value\": 10}' "
            "--frequency 3600 --no-paused --subscriptions '[]'",
        ),
        changing(
            "{scope}/alerts/custom/{id}/", "Change an alert.",
            text("name", "Its name."), integer("bookmark_id", "The id of its report."),
            *ALERT_FIELDS, example="1006 --paused",
        ),
        deleting("{scope}/alerts/custom/{id}/", "Delete an alert.", example="1006"),
        bulk_delete("{scope}/alerts/custom/bulk-delete/", "alerts", "alert_ids", "1006"),
        Endpoint(
            name="count", method="GET", path="{scope}/alerts/custom/alert-count/",
            summary="Show how many alerts there are, and may be.", model=project.AlertCount,
            fields=(text("type", "Only of this type.", place="query"),),
        ),
        Endpoint(
            name="history", method="GET", path="{scope}/alerts/custom/{id}/history/",
            summary="List when an alert fired.", returns="value", cursor="next_cursor",
            example="1006",
        ),
        Endpoint(
            name="test", method="POST", path="{scope}/alerts/custom/test/",
            summary="Send a notification of an alert as a test.", returns="value",
            fields=(
                integer("bookmark_id", "The id of its report.", required=True),
                text("name", "Its name.", required=True), *ALERT_FIELDS,
            ),
            example="--bookmark-id 1001 --name Drop",
        ),
        Endpoint(
            name="screenshot", method="GET", path="{scope}/alerts/custom/screenshot/",
            summary="Return the address of a picture that an alert sent.", returns="value",
            fields=(
                text(
                    "gcs_key", "The key of the picture.", required=True, positional=True,
                    place="query",
                ),
            ),
            example="alerts/1006.png",
        ),
        Endpoint(
            name="validate", method="POST",
            path="{scope}/alerts/custom/validate-alerts-for-bookmark/",
            summary="Check whether alerts still fit a report that is to change.",
            returns="list", model=project.AlertValidation, inside=("alert_validations",),
            fields=(
                ids("alert_ids", "The alerts.", required=True),
                choice(
                    "bookmark_type", ("insights", "funnels"), "The type of the report.",
                    required=True,
                ),
                document("bookmark_params", "What the report computes.", required=True),
            ),
            example="--alert-ids 1006 --bookmark-type insights --bookmark-params @trend.json",
        ),
    ),
)  # fmt: skip

# ---- saved metrics and behaviors ----------------------------------------------------------------

METRICS = Resource(
    name="metrics", singular="metric", model=project.SavedMetric,
    summary="Saved metrics.",
    endpoints=(
        listing("{project}/metrics", "List the saved metrics."),
        getting("{project}/metrics/{id}", "Read a metric.", example="1007"),
        creating(
            "{project}/metrics", "Save a metric.",
            text("name", "Its name.", required=True),
            document("definition", "What it computes.", required=True),
            text("description", "A description."), document("display", "How it is shown."),
            items("goals", "Its goals."), integer("owned_by", "The id of its owner."),
            boolean("verified", "Whether it is marked as verified."),
            example="--name Orders --definition '{\"type\": \"simple\"}'",
        ),
        changing(
            "{project}/metrics/{id}", "Change a metric.",
            text("name", "Its name."), document("definition", "What it computes."),
            text("description", "A description."), document("display", "How it is shown."),
            items("goals", "Its goals."), integer("owned_by", "The id of its owner."),
            boolean("verified", "Whether it is marked as verified."),
            example="1007 --name 'All orders'",
        ),
        deleting(
            "{project}/metrics", "Delete a metric.",
            object_id("id", "Its id.", required=True, positional=True),
            body=lambda given: {"metrics": [{"id": given["id"]}]}, example="1007",
        ),
    ),
)  # fmt: skip
BEHAVIORS = Resource(
    name="behaviors", singular="behavior", model=project.SavedBehavior,
    summary="Saved behaviors.",
    endpoints=(
        listing("{project}/behaviors", "List the saved behaviors."),
        getting("{project}/behaviors/{id}", "Read a behavior.", example="1008"),
        creating(
            "{project}/behaviors", "Save a behavior.",
            text("name", "Its name.", required=True),
            document("behavior", "What it is.", required=True),
            text("description", "A description."),
            example="--name Bought --behavior '{\"type\": \"event\", \"name\": \"Order Paid\"}'",
        ),
        changing(
            "{project}/behaviors/{id}", "Change a behavior.",
            text("name", "Its name."), document("behavior", "What it is."),
            text("description", "A description."),
            boolean("verified", "Whether it is marked as verified."),
            example="1008 --name 'Has bought'",
        ),
        deleting(
            "{project}/behaviors", "Delete a behavior.",
            object_id("id", "Its id.", required=True, positional=True),
            body=lambda given: {"behaviors": [{"id": given["id"]}]}, example="1008",
        ),
    ),
)  # fmt: skip

CONTENT = (
    REPORTS, REPORT_LINKS, DASHBOARDS, COHORTS, ANNOTATIONS, ANNOTATION_TAGS, WEBHOOKS, ALERTS,
    METRICS, BEHAVIORS,
)  # fmt: skip
