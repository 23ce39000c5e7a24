"""The app API's calls about boards, alerts, webhooks and flags that are no collection."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._server.app_calls import CREATED, AppResponse, Call, Handler, numbers
from mixpanel.emulator._server.app_collections import Collections, boards_with
from mixpanel.emulator._server.project import Project

ALERT_LIMIT = 100
FLAG_LIMITS = {"limit": 100, "is_trial": False, "contract_status": "active"}
TEMPLATES = {
    name: {
        "title_key": f"{name}_title",
        "description_key": f"{name}_description",
        "number_of_reports": reports,
    }
    for name, reports in (("company_kpis", 4), ("product_adoption", 6))
}


class Content:
    """The calls of one project that are not those of a collection."""

    def __init__(self, project: Project, collections: Collections) -> None:
        self._project = project
        self._collections = collections

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each path below the project."""
        return {
            "bookmark-urls": self._report_links,
            "dashboards/blueprints-all": self._templates,
            "dashboards/blueprints": self._blueprints,
            "dashboards/rca": self._rca,
            "dashboards/bookmarks": self._boards_of_report,
            "webhooks/test": self._test_webhook,
            "alerts/custom/alert-count": self._alert_count,
            "alerts/custom/test": self._test_alert,
            "alerts/custom/screenshot": self._screenshot,
            "alerts/custom/validate-alerts-for-bookmark": self._validate_alerts,
            "feature-flags/limits": self._flag_limits,
            "experiments/erf": self._experiments,
            "replays/sign/bulk": self._replays,
        }

    def _report_links(self, call: Call, rest: list[str]) -> AppResponse:
        """Addresses of reports that are not saved: create, read."""
        saved = self._project.saved
        match call.method, rest:
            case "POST", []:
                if not isinstance(call.body.get("slug"), str):
                    raise RefusedRequest(400, "slug is required")
                return AppResponse(saved.add("bookmark-urls", call.body), CREATED)
            case "GET", [slug]:
                for row in saved.rows("bookmark-urls"):
                    if row["slug"] == slug:
                        return AppResponse(row)
                raise RefusedRequest(404, f"there is no report {slug!r}")
        raise HTTPException(405)

    def _templates(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "GET")
        return AppResponse({"templates": TEMPLATES})

    def _blueprints(self, call: Call, rest: list[str]) -> AppResponse:
        match call.method, rest:
            case "POST", []:
                call.require("template_type")
                if call.body["template_type"] not in TEMPLATES:
                    raise RefusedRequest(400, f"template_type: one of {', '.join(TEMPLATES)}")
                return self._new_board(call, str(call.body["template_type"]))
            case "PUT", ["cohorts"]:
                call.require("cohorts")
                return AppResponse({})
            case "POST", ["finish"]:
                call.require("dashboard_id")
                row = self._collections.row("dashboards", str(call.body["dashboard_id"]))
                return AppResponse(self._collections.shown("dashboards", row, call))
        raise HTTPException(405)

    def _rca(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "POST")
        call.require("rca_source_id", "rca_source_data")
        return self._new_board(call, "Root cause analysis")

    def _new_board(self, call: Call, title: str) -> AppResponse:
        now = self._project.timestamp()
        fields = {"title": title, "created": now, "modified": now, "contents": {}}
        row = self._project.saved.add("dashboards", fields)
        return AppResponse(self._collections.shown("dashboards", row, call))

    def _boards_of_report(self, call: Call, rest: list[str]) -> AppResponse:
        match call.method, rest:
            case "GET", [number, "dashboard-ids"]:
                self._project.saved.get("bookmarks", number)
                return AppResponse(boards_with(self._project, int(number)))
        raise HTTPException(405)

    def _test_webhook(self, call: Call, _: list[str]) -> AppResponse:
        """Respond as if the webhook had succeeded: the emulator calls no other server."""
        _only(call, "POST")
        call.require("url")
        return AppResponse(
            {"success": True, "status_code": 200, "message": "not sent by the emulator"}
        )

    def _alert_count(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "GET")
        count = len(self._project.saved.rows("alerts/custom"))
        below = {"alert_limit": ALERT_LIMIT, "is_below_limit": count < ALERT_LIMIT}
        return AppResponse({"anomaly_alerts_count": count, **below})

    def _test_alert(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "POST")
        call.require("bookmark_id", "name")
        return AppResponse({"status": "sent", "bookmark_id": call.body["bookmark_id"]})

    def _screenshot(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "GET")
        key = call.query.get("gcs_key")
        if not key:
            raise RefusedRequest(400, "gcs_key: required")
        return AppResponse({"signed_url": f"{call.address}/storage/screenshots/{key}"})

    def _validate_alerts(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "POST")
        call.require("bookmark_type", "bookmark_params")
        found = []
        for number in numbers(call.body.get("alert_ids"), "alert_ids"):
            row = self._project.saved.get("alerts/custom", number)
            found.append({"alert_id": row["id"], "alert_name": row["name"], "valid": True})
        return AppResponse({"alert_validations": found, "invalid_count": 0})

    def _flag_limits(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "GET")
        used = len(self._project.saved.rows("feature-flags"))
        return AppResponse({**FLAG_LIMITS, "current_usage": used})

    def _experiments(self, call: Call, _: list[str]) -> AppResponse:
        _only(call, "GET")
        rows = self._project.saved.rows("experiments")
        return AppResponse([self._collections.shown("experiments", row, call) for row in rows])

    def _replays(self, call: Call, _: list[str]) -> AppResponse:
        """Refuse: the emulator records no sessions."""
        _only(call, "POST")
        raise RefusedRequest(403, "SESSION_RECORDING_SENSITIVE_DATA: permission required")


def _only(call: Call, *methods: str) -> None:
    if call.method not in methods:
        raise HTTPException(405)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
