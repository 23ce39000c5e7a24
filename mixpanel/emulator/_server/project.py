"""Hold what the server knows of one Mixpanel project, for all endpoints to share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mixpanel.emulator._rules import lookup_tables
from mixpanel.emulator._rules.access import Access, Budget, Window, basic
from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._storage.cdp_inbox import Inbox
from mixpanel.emulator._storage.export import Memory
from mixpanel.emulator._storage.flags import Flags
from mixpanel.emulator._storage.profile_query import Profiles
from mixpanel.emulator._storage.request_log import Journal, RecordedRequest
from mixpanel.emulator._storage.warehouse import Warehouse
from mixpanel.emulator.faults import Script

MINUTE = 60
DAY = 24 * 3600


@dataclass(slots=True)
class Project:
    """One Mixpanel project as the server sees it: its data, its rules, its clock."""

    now: Callable[[], float]
    warehouse: Warehouse
    access: Access
    max_bytes: int
    max_records: int
    rate: Window
    latency: float
    profiles: Profiles
    exports: Budget
    queries: Budget
    etag: bool = True
    cdp: Inbox = field(default_factory=Inbox)
    flags: Flags = field(default_factory=Flags)
    journal: Journal = field(default_factory=Journal)
    script: Script = field(default_factory=Script)
    memory: Memory = field(default_factory=Memory)
    replacements: Window = field(
        default_factory=lambda: Window(lookup_tables.MAX_REPLACEMENTS, DAY)
    )

    def clear(self) -> None:
        """Forget what was sent and asked, cohorts, and faults still to come; keep flags."""
        self.warehouse.clear()
        self.journal.clear()
        self.script.clear()
        self.profiles.clear()
        self.cdp.clear()
        self.memory.clear()
        for counted in (self.rate, self.replacements, self.exports, self.queries):
            counted.clear()

    def demand_credentials(
        self, recorded: RecordedRequest, *, token: bool = True, secret: bool = True
    ) -> None:
        """Refuse a request whose `Authorization` is not good for this project."""
        header = recorded.headers.get("authorization", "")
        project_id = recorded.query.get("project_id", "")
        if not self.access.takes_header(header, project_id=project_id, token=token, secret=secret):
            raise RefusedRequest(401, "Invalid credentials")

    def demand_account(self, recorded: RecordedRequest) -> str:
        """Return the username of a service account, whatever the project; or refuse."""
        told = basic(recorded.headers.get("authorization", ""))
        if told is None or not told.password or not self.access.takes_account(told):
            raise RefusedRequest(401, "Invalid credentials")
        return told.username
