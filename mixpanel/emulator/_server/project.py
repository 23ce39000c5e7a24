"""The state of one Mixpanel project, shared by all endpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mixpanel._page.feed import Feed
from mixpanel.emulator._rules import lookup_tables
from mixpanel.emulator._rules.access import Access, basic
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._rules.logins import Logins
from mixpanel.emulator._rules.rate_limits import CallLimiter, RollingWindow
from mixpanel.emulator._storage.cdp_inbox import Inbox
from mixpanel.emulator._storage.export import ExportCache
from mixpanel.emulator._storage.flags import Flags, ServedFlags
from mixpanel.emulator._storage.profile_query import Profiles
from mixpanel.emulator._storage.request_log import RecordedRequest, RequestLog
from mixpanel.emulator._storage.saved_reports import SavedReports
from mixpanel.emulator._storage.warehouse import Warehouse
from mixpanel.emulator.faults import Script

MINUTE = 60
DAY = 24 * 3600
COHORT_CREATED = "2026-01-01 00:00:00"  # of a cohort that was given its members only


@dataclass(slots=True)
class Project:
    """One Mixpanel project: its data, its rules, its clock."""

    now: Callable[[], float]
    warehouse: Warehouse
    access: Access
    max_bytes: int
    max_records: int
    rate: RollingWindow
    latency: float
    profiles: Profiles
    exports: CallLimiter
    queries: CallLimiter
    etag: bool = True
    on_request: Callable[[RecordedRequest], None] | None = None
    cdp: Inbox = field(default_factory=Inbox)
    logins: Logins = field(default_factory=Logins)
    flags: Flags = field(default_factory=Flags)
    saved: SavedReports = field(default_factory=SavedReports)
    request_log: RequestLog = field(default_factory=RequestLog)
    live: Feed = field(default_factory=Feed)
    script: Script = field(default_factory=Script)
    export_cache: ExportCache = field(default_factory=ExportCache)
    replacements: RollingWindow = field(
        default_factory=lambda: RollingWindow(lookup_tables.MAX_REPLACEMENTS, DAY)
    )

    def clear(self) -> None:
        """Remove data, requests, entries, cohorts and scripted faults; keep the flags."""
        self.warehouse.clear()
        self.request_log.clear()
        self.live.clear()
        self.script.clear()
        self.profiles.clear()
        self.saved.clear()
        self.cdp.clear()
        self.logins.clear()
        self.export_cache.clear()
        for counted in (self.rate, self.replacements, self.exports, self.queries):
            counted.clear()

    def require_credentials(
        self, recorded: RecordedRequest, *, token: bool = True, secret: bool = True
    ) -> None:
        """Refuse a request without valid credentials for this project.

        :raises RefusedRequest: 401.
        """
        header = recorded.headers.get("authorization", "")
        project_id = recorded.query.get("project_id", "")
        if not token and self.accepts_bearer(header):
            return
        if not self.access.accepts_header(
            header, project_id=project_id, token=token, secret=secret
        ):
            raise RefusedRequest(401, "Invalid credentials")

    def accepts_bearer(self, header: str) -> bool:
        """Return True for the access token of a login, or a static one, in this header."""
        scheme, _, bearer = header.partition(" ")
        if scheme.lower() != "bearer":
            return False
        accepted = self.logins.accepts(bearer.strip(), now=self.now())
        return self.access.accepts_bearer(bearer.strip()) if accepted is None else accepted

    def served_flags(self) -> ServedFlags:
        """Return the flags that are served: those that were set, and those of the app API."""
        self.flags.manage(self.saved.rows("feature-flags"))
        return self.flags.served()

    def timestamp(self) -> str:
        """Return the time as the app API writes it: `YYYY-MM-DD HH:MM:SS`, in UTC."""
        return datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%d %H:%M:%S")

    def cohort_rows(self) -> list[dict[str, Any]]:
        """Return the cohorts, those that only have members too, with how many they have."""
        members = self.profiles.cohorts
        saved = {str(row["id"]): row for row in self.saved.rows("cohorts")}
        rows = []
        for name in dict.fromkeys([*saved, *members]):
            number: int | str = int(name) if name.isdecimal() else name
            unnamed = {"id": number, "name": f"Cohort {name}", "created": COHORT_CREATED}
            row = {**unnamed, **saved.get(name, {})}
            rows.append({**row, "count": len(members.get(name, ()))})
        return rows

    def require_account(self, recorded: RecordedRequest) -> str:
        """Return the username of the request's service account, valid in any project.

        :raises RefusedRequest: 401.
        """
        credentials = basic(recorded.headers.get("authorization", ""))
        if (
            credentials is None
            or not credentials.password
            or not self.access.accepts_account(credentials)
        ):
            raise RefusedRequest(401, "Invalid credentials")
        return credentials.username
