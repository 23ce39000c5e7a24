"""Call each public method of mixpanel-headless' Workspace; runs in an environment of its own.

    python headless_calls.py URL IDS

`IDS` is JSON: the ids of what the emulator was seeded with. Prints one line of JSON for each call:
`{"method", "label", "ok", "error", "requests", "value"}`. It must not import our package.
"""

import dataclasses
import datetime as dt
import inspect
import json
import os
import pathlib
import sys
import tempfile
from types import GeneratorType

URL, IDS = sys.argv[1], json.loads(sys.argv[2])
HOME = tempfile.mkdtemp()
os.environ.update(
    HOME=HOME, MP_API_BASE_URL=URL, MP_APP_BASE_URL=URL, MP_USERNAME="robot", MP_SECRET="s3cret",
    MP_PROJECT_ID="42", MP_REGION="us", MP_PACER="0", NO_PROXY="127.0.0.1",
)  # fmt: skip

import httpx  # noqa: E402
import mixpanel_headless as mp  # noqa: E402
import pydantic  # noqa: E402
from mixpanel_headless import types as t  # noqa: E402

DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-04"}
LONG = {"from_date": "2025-12-01", "to_date": "2026-01-06"}
PAID, OPENED = "Order Paid", "Opened App"

exchanges: list[tuple[str, str, int]] = []
handle_request = httpx.HTTPTransport.handle_request


def recorded(self, request):
    """Send a request, and remember its path and status."""
    response = handle_request(self, request)
    exchanges.append((request.method, request.url.path, response.status_code))
    return response


httpx.HTTPTransport.handle_request = recorded
ws = mp.Workspace(workspace=77)


def plain(value):
    """Return a value as JSON can hold it."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        public = [each.name for each in dataclasses.fields(value) if each.name[0] != "_"]
        return {name: plain(getattr(value, name)) for name in public}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, dt.date):
        return value.isoformat()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return f"<{type(value).__name__}>"


def call(method, *args, label="", **kwargs):
    """Call a method, print what came of it, and return its result; None if it failed."""
    before, value, error = len(exchanges), None, None
    try:
        value = getattr(ws, method)(*args, **kwargs)
        if isinstance(value, GeneratorType) or inspect.isgenerator(value):
            value = list(value)
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt):
            raise
        error = " ".join(f"{type(problem).__name__}: {problem}".split())[:400]
    sent = exchanges[before:]
    line = {
        "method": method,
        "label": label,
        "ok": error is None,
        "error": error,
        "requests": [f"{verb} {path} {status}" for verb, path, status in sent],
        "value": plain(value),
    }
    print(json.dumps(line), flush=True)
    return value


def field(found, name):
    """Return a field of an object, None if there is no object."""
    return getattr(found, name, None)


def discovery():
    """What there is: events, properties, values, saved things."""
    call("events")
    call("properties", PAID)
    call("property_values", "plan", event=PAID)
    call("subproperties", "cart", event=PAID)
    call("funnels")
    call("cohorts")
    call("list_bookmarks")
    call("top_events")
    call("top_events", type="unique", limit=1, label="unique")
    call("lexicon_schemas")
    call("lexicon_schema", "event", PAID)
    call("schema_graph")
    call("clear_discovery_cache")
    call("me")
    call("projects")
    call("workspaces")
    call("list_workspaces")
    call("resolve_workspace_id")


def saved():
    """What our own client has saved before."""
    for method in ("list_dashboards", "list_cohorts_full", "list_bookmarks_v2",
                   "list_annotations", "list_annotation_tags", "list_webhooks",
                   "list_feature_flags", "list_experiments", "list_lexicon_tags", "list_metrics",
                   "list_schema_registry"):  # fmt: skip
        call(method, label="seeded")
    call("get_dashboard", IDS["dashboard"], label="seeded")
    call("get_annotation", IDS["annotation"], label="seeded")
    call("get_cohort", IDS["cohort"], label="seeded")
    call("get_bookmark", IDS["insights"], label="seeded")
    call("get_event_definitions", names=[PAID], label="seeded")


def streams():
    """Raw events and profiles."""
    call("stream_events", **DAYS)
    call("stream_events", **DAYS, events=[PAID], where='properties["amount"] > 15', label="where")
    call("stream_profiles")
    call("stream_profiles", where='"vip" in properties["tags"]', label="where")
    call("stream_profiles", cohort_id=str(IDS["cohort"]), label="cohort")
    behaviors = [{"window": "90d", "name": "b1", "event_selectors": [{"event": PAID}]}]
    where = '(behaviors["b1"] > 1)'
    call("stream_profiles", behaviors=behaviors, where=where, label="behaviors")


def live():
    """The documented queries."""
    call("segmentation", PAID, **DAYS)
    call("segmentation", PAID, **DAYS, on="plan", label="on")
    call("segmentation", PAID, **DAYS, where='properties["amount"] > 15', label="where")
    call("segmentation_numeric", PAID, **DAYS, on="amount")
    call("segmentation_sum", PAID, **DAYS, on="amount")
    call("segmentation_average", PAID, **DAYS, on="amount")
    call("event_counts", [PAID, OPENED], **DAYS)
    call("event_counts", [PAID, OPENED], **DAYS, type="unique", unit="week", label="unique")
    call("property_counts", PAID, "plan", **DAYS)
    call("funnel", IDS["funnel"], **DAYS)
    call("funnel", IDS["funnel"], **DAYS, on="plan", label="on")
    call("retention", born_event=OPENED, return_event=PAID, **DAYS, interval_count=3)
    call("frequency", **DAYS)
    call("frequency", **LONG, event=PAID, unit="month", addiction_unit="day", label="monthly")
    call("activity_feed", ["u1", "u2"], **LONG)
    call("activity_feed", ["u1"], **LONG, limit=2, include_events=[PAID], label="page")
    call("query_saved_report", IDS["insights"])
    call("query_saved_report", IDS["funnel"], bookmark_type="funnels", **DAYS, label="funnel")
    call("query_saved_report", IDS["retention"], bookmark_type="retention", label="retention")
    call("query_saved_report", IDS["flow"], bookmark_type="flows", label="flows")
    call("query_saved_flows", IDS["flow"])


def insights():
    """Inline insights: maths, groups, filters, formulas."""
    for math in ("total", "unique", "dau", "wau", "mau", "cumulative_unique", "sessions"):
        call("query", PAID, **DAYS, math=math, label=math)
    for math in ("total", "average", "median", "min", "max", "p25", "p99", "unique_values",
                 "numeric_summary", "most_frequent", "first_value"):  # fmt: skip
        call("query", PAID, **DAYS, math=math, math_property="amount", label=f"{math} of amount")
    call("query", PAID, **DAYS, math="percentile", math_property="amount", percentile_value=80,
         label="percentile")  # fmt: skip
    call("query", PAID, **DAYS, math="average", math_property="amount", per_user="total",
         label="per user")  # fmt: skip
    call("query", PAID, **DAYS, math="histogram", math_property="amount", per_user="total",
         label="histogram")  # fmt: skip
    call("query", [PAID, OPENED], **DAYS, formula="(A / B) * 100", label="formula")
    call("query", PAID, **DAYS, group_by="plan", label="group")
    call("query", PAID, **DAYS, group_by=["plan", "country"], label="groups")
    buckets = t.GroupBy("amount", property_type="number", bucket_size=10, bucket_min=0,
                        bucket_max=50)  # fmt: skip
    call("query", PAID, **DAYS, group_by=buckets, label="buckets")
    call("query", PAID, **DAYS, mode="total", group_by="plan", label="table")
    call("query", PAID, **DAYS, rolling=2, label="rolling")
    call("query", PAID, **DAYS, cumulative=True, label="cumulative")
    call("query", PAID, **LONG, unit="week", label="weeks")
    call("query", PAID, **LONG, unit="quarter", label="quarters")
    filters = {
        "equals": t.Filter.equals("plan", ["team", "free"]),
        "not equals": t.Filter.not_equals("plan", "team"),
        "contains": t.Filter.contains("plan", "ea"),
        "starts with": t.Filter.starts_with("plan", "te"),
        "ends with": t.Filter.ends_with("plan", "ee"),
        "greater": t.Filter.greater_than("amount", 15),
        "at least": t.Filter.at_least("amount", 20.5),
        "between": t.Filter.between("amount", 10, 21),
        "not between": t.Filter.not_between("amount", 10, 21),
        "set": t.Filter.is_set("plan"),
        "not set": t.Filter.is_not_set("plan"),
        "true": t.Filter.is_true("gift"),
        "list contains": t.Filter.list_contains("lines", sku="pen"),
        "cohort": t.Filter.in_cohort(IDS["cohort"], "Power"),
        "not in cohort": t.Filter.not_in_cohort(IDS["cohort"], "Power"),
        "since": t.Filter.since("due", "2026-01-03"),
        "in the last": t.Filter.in_the_last("due", 30, "day"),
        "frequency": t.FrequencyFilter(PAID, 1),
    }
    for label, where in filters.items():
        call("query", PAID, **DAYS, where=where, label=f"where {label}")
    any_of = t.Metric(PAID, filters=[t.Filter.equals("plan", "free"),
                                     t.Filter.greater_than("amount", 15)],
                      filters_combinator="any")  # fmt: skip
    call("query", any_of, **DAYS, label="any filter")
    call("query", t.CohortMetric(IDS["cohort"], "Power"), **DAYS, label="cohort size")
    broken = t.CohortBreakdown(IDS["cohort"], "Power")
    call("query", PAID, **DAYS, group_by=broken, label="by cohort")
    call("query", PAID, **DAYS, group_by=t.FrequencyBreakdown(PAID), label="by frequency")
    call("query", t.Metric([PAID, OPENED]), **DAYS, label="either event")
    funnel = t.FunnelMetric(t.FunnelBehavior([OPENED, PAID]))
    call("query", funnel, **DAYS, label="funnel metric")
    retention = t.RetentionMetric(t.RetentionBehavior(OPENED, PAID))
    call("query", retention, **DAYS, label="retention metric")
    before = t.TimeComparison.relative("week")
    call("query", PAID, **DAYS, time_comparison=before, label="comparison")


def funnels():
    """Inline funnels."""
    steps = [OPENED, PAID]
    call("query_funnel", steps, **DAYS)
    call("query_funnel", steps, **DAYS, group_by="plan", label="group")
    call("query_funnel", steps, **DAYS, group_by=["plan", "country"], label="groups")
    call("query_funnel", steps, **DAYS, mode="trends", label="trends")
    call("query_funnel", [PAID, OPENED], **DAYS, order="any", label="any order")
    call("query_funnel", steps, **DAYS, exclusions=["Refund"], label="exclusions")
    call("query_funnel", steps, **DAYS, holding_constant="country", label="held")
    call("query_funnel", steps, **DAYS, conversion_window=2, conversion_window_unit="hour",
         label="window")  # fmt: skip
    call("query_funnel", steps, **DAYS, conversion_window=1, conversion_window_unit="session",
         math="conversion_rate_session", label="session")  # fmt: skip
    filtered = t.FunnelStep(PAID, filters=[t.Filter.equals("plan", "team")])
    call("query_funnel", [OPENED, filtered], **DAYS, label="step filter")
    call("query_funnel", steps, **DAYS, math="conversion_rate_total", label="totals")
    call("query_funnel", steps, **DAYS, reentry_mode="aggressive", label="reentry")


def retentions():
    """Inline retention."""
    call("query_retention", OPENED, PAID, **DAYS, retention_unit="day")
    call("query_retention", OPENED, PAID, **DAYS, retention_unit="day", group_by="country",
         label="group")  # fmt: skip
    call("query_retention", OPENED, PAID, **DAYS, retention_unit="day", bucket_sizes=[1, 2, 5],
         label="buckets")  # fmt: skip
    call("query_retention", OPENED, PAID, **DAYS, retention_unit="day",
         alignment="interval_start", label="calendar")  # fmt: skip
    for mode in ("carry_back", "carry_forward", "consecutive_forward"):
        call("query_retention", OPENED, PAID, **DAYS, retention_unit="day", unbounded_mode=mode,
             label=mode)  # fmt: skip
    call("query_retention", OPENED, PAID, **LONG, retention_unit="week", mode="table",
         label="table")  # fmt: skip


def flows():
    """Inline flows."""
    call("query_flow", OPENED, **DAYS)
    call("query_flow", PAID, **DAYS, forward=1, reverse=2, label="both ways")
    call("query_flow", [OPENED, PAID], **DAYS, label="steps")
    call("query_flow", OPENED, **DAYS, mode="paths", label="paths")
    call("query_flow", OPENED, **DAYS, mode="tree", label="tree")
    call("query_flow", OPENED, **DAYS, count_type="total", label="total")
    call("query_flow", OPENED, **DAYS, count_type="session", conversion_window=1,
         conversion_window_unit="session", label="session")  # fmt: skip
    call("query_flow", OPENED, **DAYS, where=t.Filter.equals("country", "NO"), label="where")
    call("query_flow", OPENED, **DAYS, hidden_events=["Refund"], label="hidden")
    call("query_flow", OPENED, **DAYS, exclusions=["Refund"], label="exclusions")
    norwegian = t.FlowStep(OPENED, filters=[t.Filter.contains("country", "N")])
    call("query_flow", norwegian, **DAYS, label="step filter")
    call("query_flow", OPENED, **DAYS, segments="country", label="segments")


def users():
    """Profiles, listed and aggregated."""
    call("query_user", mode="profiles", limit=10)
    call("query_user", mode="profiles", limit=2, label="limit")
    call("query_user", mode="profiles", limit=10, where=t.Filter.equals("plan", "team"),
         label="where")  # fmt: skip
    call("query_user", mode="profiles", limit=10, sort_by="seats", label="sorted")
    call("query_user", mode="profiles", limit=10, search="u3@", label="search")
    call("query_user", mode="profiles", limit=10, cohort=IDS["cohort"], label="cohort")
    criteria = t.CohortCriteria.did_event(PAID, at_least=2, from_date="2026-01-01",
                                          to_date="2026-01-06")  # fmt: skip
    call("query_user", mode="profiles", limit=10, cohort=t.CohortDefinition(criteria),
         label="definition")  # fmt: skip
    call("query_user", label="count")
    call("query_user", aggregate="extremes", aggregate_property="seats", label="extremes")
    call("query_user", aggregate="numeric_summary", aggregate_property="seats", label="summary")
    call("query_user", aggregate="percentile", aggregate_property="seats", percentile=50,
         label="percentile")  # fmt: skip
    call("query_user", segment_by=[IDS["cohort"]], label="by cohort")


def raw_parameters():
    """Parameters that one method builds, and another runs."""
    built = call("build_params", PAID, **DAYS)
    call("run_params", built)
    call("run_funnel_params", call("build_funnel_params", [OPENED, PAID], **DAYS))
    built = call("build_retention_params", OPENED, PAID, **DAYS, retention_unit="day")
    call("run_retention_params", built)
    call("run_flow_params", call("build_flow_params", OPENED, **DAYS))
    call("run_user_params", call("build_user_params", mode="profiles"), limit=10)
    link = call("create_report_link", ws.build_params(PAID, **DAYS), report_type="insights")
    url = field(link, "url") or "https://mixpanel.com/project/42/view/77/app/insights#none"
    call("resolve_report_link", url)
    call("query_report_link", url)
    call("saved_report_link", IDS["insights"])


def boards_and_reports():
    """Dashboards and saved reports."""
    board = field(call("create_dashboard", t.CreateDashboardParams(title="Board")), "id")
    call("list_dashboards")
    call("get_dashboard", board)
    call("update_dashboard", board, t.UpdateDashboardParams(title="Renamed"))
    for method in ("favorite_dashboard", "unfavorite_dashboard", "pin_dashboard",
                   "unpin_dashboard"):  # fmt: skip
        call(method, board)
    params = ws.build_params(PAID, **DAYS)
    created = call("create_bookmark", t.CreateBookmarkParams(
        name="Report", bookmark_type="insights", params=params, dashboard_id=board,
    ))  # fmt: skip
    report = field(created, "id")
    call("get_bookmark", report)
    call("list_bookmarks_v2", bookmark_type="insights")
    call("update_bookmark", report, t.UpdateBookmarkParams(name="Renamed"))
    call("bulk_update_bookmarks", [t.BulkUpdateBookmarkEntry(id=report, name="Again")])
    call("bookmark_linked_dashboard_ids", report)
    call("get_bookmark_dashboard_ids", report)
    call("get_bookmark_history", report)
    call("add_report_to_dashboard", board, report)
    call("remove_report_from_dashboard", board, report)
    call("update_text_card", board, 1, t.UpdateTextCardParams(markdown="Hello"))
    call("update_report_link", board, 1, t.UpdateReportLinkParams(link_type="embedded"))
    call("get_dashboard_erf", board)
    call("list_blueprint_templates")
    blueprint = field(call("create_blueprint", "company_kpis"), "id")
    call("get_blueprint_config", blueprint or board)
    call("update_blueprint_cohorts", [{"id": IDS["cohort"]}])
    cards = [t.BlueprintCard(card_type="report", bookmark_id=report)]
    call("finalize_blueprint", t.BlueprintFinishParams(dashboard_id=blueprint or board,
                                                       cards=cards))  # fmt: skip
    source = t.RcaSourceData(source_type="anomaly")
    call("create_rca_dashboard", t.CreateRcaDashboardParams(rca_source_id=1,
                                                            rca_source_data=source))  # fmt: skip
    other = call("create_bookmark", t.CreateBookmarkParams(
        name="Other", bookmark_type="insights", params=params, dashboard_id=board,
    ), label="second")  # fmt: skip
    call("bulk_delete_bookmarks", [field(other, "id")])
    call("delete_bookmark", report)
    call("delete_dashboard", board)
    second = call("create_dashboard", t.CreateDashboardParams(title="Second"), label="second")
    call("bulk_delete_dashboards", [field(second, "id")])


def cohorts_and_annotations():
    """Cohorts, annotations, and their tags."""
    definition = {"behaviors": {}, "selector": None}
    created = call("create_cohort", t.CreateCohortParams(name="Team", definition=definition))
    cohort = field(created, "id")
    call("get_cohort", cohort)
    call("list_cohorts_full")
    call("update_cohort", cohort, t.UpdateCohortParams(name="Renamed"))
    call("bulk_update_cohorts", [t.BulkUpdateCohortEntry(id=cohort, name="Again")])
    call("delete_cohort", cohort)
    second = t.CreateCohortParams(name="Second", definition=definition)
    call("bulk_delete_cohorts", [field(call("create_cohort", second, label="second"), "id")])
    tag = field(call("create_annotation_tag", t.CreateAnnotationTagParams(name="release")), "id")
    call("list_annotation_tags")
    note = t.CreateAnnotationParams(date="2026-01-03 00:00:00", description="Launch", tags=[tag])
    note = field(call("create_annotation", note), "id")
    call("get_annotation", note)
    call("list_annotations", **DAYS)
    call("update_annotation", note, t.UpdateAnnotationParams(description="Renamed"))
    call("delete_annotation", note)


def flags_and_experiments():
    """Feature flags and experiments."""
    created = call("create_feature_flag", t.CreateFeatureFlagParams(name="Flag", key="flag"))
    flag = str(field(created, "id"))
    call("get_feature_flag", flag)
    call("list_feature_flags")
    ruleset = plain(field(created, "ruleset")) or {}
    call("update_feature_flag", flag, t.UpdateFeatureFlagParams(
        name="Renamed", key="flag", status="enabled", ruleset=ruleset,
    ))  # fmt: skip
    call("set_flag_test_users", flag, t.SetTestUsersParams(users={"qa-1": "On"}))
    call("get_flag_history", flag)
    call("get_flag_limits")
    call("duplicate_feature_flag", flag)
    call("archive_feature_flag", flag)
    call("restore_feature_flag", flag)
    call("delete_feature_flag", flag)
    created = call("create_experiment", t.CreateExperimentParams(name="Experiment"))
    experiment = str(field(created, "id"))
    call("get_experiment", experiment)
    call("list_experiments")
    call("list_erf_experiments")
    call("update_experiment", experiment, t.UpdateExperimentParams(description="Changed"))
    copied = t.DuplicateExperimentParams(name="Copy")
    call("duplicate_experiment", experiment, copied)
    call("launch_experiment", experiment)
    call("conclude_experiment", experiment)
    call("decide_experiment", experiment, t.ExperimentDecideParams(success=True))
    call("archive_experiment", experiment)
    call("restore_experiment", experiment)
    call("delete_experiment", experiment)


def alerts_and_webhooks():
    """Alerts and webhooks."""
    alert = t.CreateAlertParams(
        bookmark_id=IDS["insights"], name="Alert", condition={"operator": ">", "value": 1},
        frequency=3600, paused=False, subscriptions=[{"type": "email", "value": "a@example.org"}],
    )  # fmt: skip
    number = field(call("create_alert", alert), "id")
    call("get_alert", number)
    call("list_alerts")
    call("update_alert", number, t.UpdateAlertParams(name="Renamed"))
    call("get_alert_count")
    call("get_alert_history", number)
    call("test_alert", alert)
    call("get_alert_screenshot_url", "shots/1.png")
    call("validate_alerts_for_bookmark", t.ValidateAlertsForBookmarkParams(
        alert_ids=[number or 1], bookmark_type="insights",
        bookmark_params=ws.build_params(PAID, **DAYS),
    ))  # fmt: skip
    call("delete_alert", number)
    call("bulk_delete_alerts", [field(call("create_alert", alert, label="second"), "id")])
    hook = t.CreateWebhookParams(name="Hook", url="https://example.org/hook")
    hook = str(field(call("create_webhook", hook), "id"))
    call("list_webhooks")
    call("update_webhook", hook, t.UpdateWebhookParams(name="Renamed"))
    call("test_webhook", t.WebhookTestParams(url="https://example.org/hook"))
    call("delete_webhook", hook)


def lexicon():
    """Definitions of events and properties, tags, schemas and their enforcement."""
    call("get_event_definitions", names=[PAID])
    call("update_event_definition", PAID, t.UpdateEventDefinitionParams(description="Paid"))
    entries = [t.BulkEventUpdate(name=PAID, verified=True)]
    call("bulk_update_event_definitions", t.BulkUpdateEventsParams(events=entries))
    call("get_event_history", PAID)
    call("get_tracking_metadata", PAID)
    call("get_property_definitions", names=["plan"], resource_type="Event")
    changed = t.UpdatePropertyDefinitionParams(description="Plan", resource_type="Event")
    call("update_property_definition", "plan", changed)
    properties = [t.BulkPropertyUpdate(name="plan", resource_type="Event", hidden=False)]
    changes = t.BulkUpdatePropertiesParams(properties=properties)
    call("bulk_update_property_definitions", changes)
    call("get_property_history", "plan", "event")
    call("export_lexicon")
    tag = field(call("create_lexicon_tag", t.CreateTagParams(name="core")), "id")
    call("list_lexicon_tags")
    call("update_lexicon_tag", tag, t.UpdateTagParams(name="main"))
    call("delete_lexicon_tag", "main")
    schema = {"properties": {"amount": {"type": "number"}}}
    call("create_schema", "event", "Refund", schema)
    call("update_schema", "event", "Refund", schema)
    entry = t.SchemaEntry(entity_type="event", name="Shipped", schema_definition=schema)
    call("create_schemas_bulk", t.BulkCreateSchemasParams(entries=[entry]))
    call("update_schemas_bulk", t.BulkCreateSchemasParams(entries=[entry]))
    call("list_schema_registry")
    call("delete_schemas", entity_type="event", entity_name="Shipped")
    call("init_schema_enforcement", t.InitSchemaEnforcementParams(rule_event="Warn"))
    call("get_schema_enforcement")
    call("update_schema_enforcement", t.UpdateSchemaEnforcementParams(rule_event="Warn"))
    call("replace_schema_enforcement", t.ReplaceSchemaEnforcementParams(
        common_properties=[], user_properties=[], events=[], rule_event="Warn",
        notification_emails=[],
    ))  # fmt: skip
    call("run_audit")
    call("run_audit_events_only")
    call("delete_schema_enforcement")
    found = call("list_data_volume_anomalies")
    number = field(found[0], "id") if found else 1
    call("update_anomaly", t.UpdateAnomalyParams(id=number, status="dismissed",
                                                 anomaly_class="event"))  # fmt: skip
    one = t.BulkAnomalyEntry(id=number, anomaly_class="event")
    call("bulk_update_anomalies", t.BulkUpdateAnomalyParams(anomalies=[one], status="dismissed"))
    call("delete_event_definition", "Refund")


def custom_definitions():
    """Custom events and properties, drop filters, lookup tables, metrics, behaviors."""
    event = t.CreateCustomEventParams(name="Any visit", alternatives=[OPENED, PAID])
    event = field(call("create_custom_event", event), "id")
    call("list_custom_events")
    call("update_custom_event", event, t.UpdateEventDefinitionParams(description="Any"))
    call("delete_custom_event", event)
    formula = t.CreateCustomPropertyParams(
        name="Net", resource_type="events", display_formula="A * 0.8",
        composed_properties={"A": t.ComposedPropertyValue(type="number", value="amount",
                                                          resource_type="event")},
    )  # fmt: skip
    number = field(call("create_custom_property", formula), "custom_property_id")
    call("get_custom_property", str(number))
    call("list_custom_properties")
    call("update_custom_property", str(number), t.UpdateCustomPropertyParams(name="Gross"))
    call("validate_custom_property", formula)
    call("delete_custom_property", str(number))
    rows = call("create_drop_filter", t.CreateDropFilterParams(event_name="Refund", filters=[]))
    number = field(rows[0], "id") if rows else 1
    call("list_drop_filters")
    call("get_drop_filter_limits")
    call("update_drop_filter", t.UpdateDropFilterParams(id=number, active=False))
    call("delete_drop_filter", number)
    path = pathlib.Path(HOME, "plans.csv")
    path.write_text("plan,price\nteam,10\n")
    place = call("get_lookup_upload_url")
    uploaded = t.UploadLookupTableParams(name="Plans", file_path=str(path))
    table = field(call("upload_lookup_table", uploaded, poll_interval=0.01), "id")
    call("get_lookup_upload_status", "1")
    if place is not None:
        httpx.put(place.url, content=path.read_bytes()).raise_for_status()
        ready = t.MarkLookupTableReadyParams(name="More plans", key=place.key)
        call("mark_lookup_table_ready", ready)
    call("list_lookup_tables")
    call("update_lookup_table", table or 1, t.UpdateLookupTableParams(name="Prices"))
    call("get_lookup_download_url", table or 1)
    call("download_lookup_table", table or 1)
    call("delete_lookup_tables", [table or 1])
    metric = t.CreateMetricParams(name="Paid", definition=t.Metric(PAID))
    metric = field(call("create_metric", metric), "id")
    call("get_metric", metric)
    if metric is not None:
        call("query", t.MetricRef(metric), **DAYS, label="saved metric")
    call("list_metrics")
    call("update_metric", metric, t.UpdateMetricParams(name="Orders"))
    call("bulk_update_metrics", [t.BulkUpdateMetricEntry(id=metric or 1, name="Again")])
    call("delete_metric", metric)
    metric = t.CreateMetricParams(name="Paid twice", definition=t.Metric(PAID))
    call("delete_metrics", [field(call("create_metric", metric, label="second"), "id")])
    behavior = t.CreateBehaviorParams(name="Buys", behavior=t.FunnelBehavior([OPENED, PAID]))
    number = field(call("create_behavior", behavior), "id")
    call("get_behavior", number)
    if number is not None:
        call("query_funnel", t.BehaviorRef(number, "funnel"), **DAYS, label="saved behavior")
    call("list_behaviors")
    call("update_behavior", number, t.UpdateBehaviorParams(name="Purchases"))
    call("delete_behavior", number)
    behavior = t.CreateBehaviorParams(name="Two", behavior=t.FunnelBehavior([OPENED, PAID]))
    call("delete_behaviors", [field(call("create_behavior", behavior, label="second"), "id")])


def deletion_and_context():
    """Requests to delete events, and the context that a project describes."""
    wanted = {"event_name": "Refund", **DAYS}
    rows = call("create_deletion_request", t.CreateDeletionRequestParams(**wanted))
    number = field(rows[0], "id") if rows else 1
    call("list_deletion_requests")
    call("preview_deletion_filters", t.PreviewDeletionFiltersParams(**wanted))
    call("cancel_deletion_request", number)
    call("set_business_context", "We sell pens.")
    call("get_business_context")
    call("get_business_context_chain")
    call("clear_business_context")


def replays():
    """Session replays, as far as the emulator has any."""
    call("list_replays", distinct_id="u1", **LONG)
    call("replays_for_user", "u1", **DAYS)
    call("events_for_replay", "r1")
    call("events_for_replays", ["r1"])
    for method in ("sign_replay", "fetch_replay", "stream_replay", "analyze_replay"):
        call(method, "r1")
    call("sign_replays", ["r1"])
    call("fetch_replays", ["r1"])


AREAS = (
    discovery, saved, streams, live, insights, funnels, retentions, flows, users, raw_parameters,
    boards_and_reports, cohorts_and_annotations, flags_and_experiments, alerts_and_webhooks,
    lexicon, custom_definitions, deletion_and_context, replays,
)  # fmt: skip

for area in AREAS:
    try:
        area()
    except Exception as problem:
        text = " ".join(f"{type(problem).__name__}: {problem}".split())[:400]
        print(json.dumps({"area": area.__name__, "stopped": text}), flush=True)
call("use", workspace=77)
call("close")
methods = [
    name
    for name, member in inspect.getmembers(mp.Workspace)
    if name[0] != "_" and inspect.isfunction(member)
]
print(json.dumps({"methods": methods, "version": mp.__version__}), flush=True)
