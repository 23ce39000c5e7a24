"""Run the emulator: `with Emulator() as emu:` answers at `emu.url` from a thread of its own."""

import contextlib
import ipaddress
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import anyio

from mixpanel.emulator._rules.access import Access, Budget, Limits, Window
from mixpanel.emulator._rules.cdp import CustomerIORules, HightouchRules, Vendor
from mixpanel.emulator._server.app import build_app
from mixpanel.emulator._server.origins import Guard, origin_of
from mixpanel.emulator._server.project import MINUTE, Project
from mixpanel.emulator._server.server import Server, listen
from mixpanel.emulator._storage.cdp_inbox import Inbox
from mixpanel.emulator._storage.flags import FlagSource
from mixpanel.emulator._storage.loader import load_file
from mixpanel.emulator._storage.profile_query import Profiles
from mixpanel.emulator._storage.request_log import RecordedRequest
from mixpanel.emulator._storage.warehouse import Warehouse
from mixpanel.emulator.faults import Fault
from mixpanel.exceptions import ConfigurationError

__all__ = ["Emulator", "serve"]


class Emulator:
    """A local server that speaks Mixpanel's ingestion, export, profile-query and flags wire.

    It answers on this machine only, and speaks Customer.io's and Hightouch's wires as well, at
    addresses of their own.

    Use it as `with Emulator() as emu:` or `async with` (asyncio and trio), or call `start` and
    `stop`; a stopped emulator can be read, and started again at the same address. All that reads
    (`events`, `profiles`, ...) may be called from any thread.

    - `db`: a DuckDB file that keeps the data; in memory without one.
    - `now`: the clock (seconds) that windows and receipt times follow.
    - `tokens`, `service_accounts` (username to secret), `api_secrets`: the credentials taken; None
      takes any that are not empty.
    - `max_bytes`, `max_records`: what one request may hold, uncompressed; beyond it is 413.
    - `rate_limit`: events a minute on `/track` and `/import` together; beyond it is 429.
    - `export_limits`, `query_limits`: how often `/api/2.0/export` and `/api/query/...` may be
      called (`Limits.export()` and `Limits.query()` are Mixpanel's own, None sets no limit); beyond
      it is 429 with `Retry-After`.
    - `page_size`: profiles on a page of the profile query.
    - `latency`: seconds each answer is kept back once the request is taken in.
    - `flags`: the feature flags to serve, as `set_flags` takes them.
    - `etag`: whether flag definitions carry an ETag, and 304 answers who has them already.
    - `allow_origins`: the origins of web pages that may send here, such as `http://localhost:3000`.
      Requests of other pages, and those to a name that is not a loopback one, are refused.
    - `customerio`, `hightouch`: the rules that `customerio_url` and `hightouch_url` answer by.

    :raises ValueError: for a host that is not a loopback address, an origin that is none, or flags
        that are none.
    :raises OSError: when the file of the flags cannot be read.
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
    ) -> None:
        self.host: str = _loopback(host)
        self.port: int = _checked_port(port)
        origins = frozenset(map(origin_of, _several(allow_origins) or ()))
        self._guard = Guard(self.host, origins)
        warehouse = Warehouse(db)
        self._project = Project(
            now=now,
            warehouse=warehouse,
            access=Access(_several(tokens), service_accounts, _several(api_secrets)),
            max_bytes=max_bytes,
            max_records=max_records,
            rate=Window(rate_limit, MINUTE),
            latency=latency,
            profiles=Profiles(warehouse, page_size=page_size),
            exports=Budget(export_limits),
            queries=Budget(query_limits),
            etag=etag,
            cdp=Inbox(customerio, hightouch),
        )
        if flags is not None:
            self.set_flags(flags)
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where to send: `http://127.0.0.1:PORT`, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def customerio_url(self) -> str:
        """Where to send what is meant for Customer.io: give it to a client as `base_url`."""
        return f"{self.url}/customerio"

    @property
    def hightouch_url(self) -> str:
        """Where to send what is meant for Hightouch Events: give it to a client as `base_url`."""
        return f"{self.url}/hightouch"

    @property
    def hightouch_oauth_url(self) -> str:
        """Hightouch's authorization server, whose `/token` hands out access tokens."""
        return f"{self.hightouch_url}/oauth"

    def start(self) -> None:
        """Listen and answer, until `stop`.

        :raises OSError: when the port is taken, or the database file cannot be opened.
        """
        if self._server is not None:
            raise RuntimeError("the emulator is running already")
        listener = listen(self.host, self.port)
        try:
            self._project.warehouse.open()
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._server = Server(build_app(self._project, self._guard), listener)

    def stop(self) -> None:
        """Stop answering, cut what is still open, and let go of the database file."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
        self._project.warehouse.close()

    def events(
        self, name: str | None = None, *, distinct_id: str | None = None, raw: bool = False
    ) -> list[dict[str, Any]]:
        """Return the events stored, as `{"event", "properties"}`, in the order of first arrival.

        Copies with the same event, time, distinct_id and `$insert_id` count as one and the latest
        wins, as in Mixpanel's reports; `raw` returns every copy. The server fills in a `time`,
        `$insert_id` or `distinct_id` that was not sent, and cuts strings at 255 characters.
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
        """Return the messages that Customer.io and Hightouch kept, in the order of arrival.

        Each is a dict: `vendor`, `endpoint`, `message` (with its `type`), `bytes` (as sent), `key`
        (the write key), `sent_at` (of the batch), `received_at`, and `headers`, those that tell how
        it was sent. `unique` leaves out those whose messageId came before from the same source.
        """
        return self._project.cdp.messages(vendor, unique=unique)

    def cdp_dropped(self, vendor: Vendor | None = None) -> list[dict[str, Any]]:
        """Return the messages that were answered with 2xx and yet not kept, in order of arrival.

        They are as in `cdp_messages`, with a `why`. `message` is None for a request that could not
        be read, `key` is None when it was no good.
        """
        return self._project.cdp.dropped(vendor)

    def revoke_tokens(self) -> None:
        """Let Hightouch answer 401 to all access tokens handed out so far."""
        self._project.cdp.tokens.revoke()

    def create_lookup_table(self, table_id: str, name: str) -> None:
        """Create an empty lookup table, as the web interface would; the API can only replace."""
        self._project.warehouse.create_lookup_table(table_id, name)

    @property
    def flags(self) -> list[dict[str, Any]]:
        """Return the feature flags, as `/flags/definitions` serves them now."""
        return self._project.flags.served().flags

    def set_flags(
        self, definitions: FlagSource, *, cohorts: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Replace the feature flags: by `{"flags": [...]}`, a list, or the path of a JSON file.

        A file is read again when it changes; while it cannot be read, a warning in the log
        `mixpanel.emulator` says so and the flags stay as they were. All are served as they are,
        whatever their `status`: a malformed flag is a client's to bear, and no one is enrolled.

        `cohorts` (`cohort_hash` to the distinct_ids in it) decide rollouts for a cohort, in answers
        of `/flags` alone: local evaluation cannot know them.

        :raises OSError: when the file cannot be read.
        :raises ValueError: for what is no list of flags, or is not JSON.
        """
        members = {name: frozenset(_several(ids) or ()) for name, ids in (cohorts or {}).items()}
        self._project.flags.set(definitions, members)

    def load(self, path: str | Path) -> int:
        """Store the events of a file, such as a raw export, and return how many there were.

        It takes NDJSON (`.ndjson`, `.jsonl`, also `.gz`) fastest, and all else that
        `mixpanel.data.store.read_events` does. Nothing is judged: events may be of any age, may
        lack ids, and keep their `mp_processing_time_ms`. It blocks its thread.

        :raises ValueError: for a line that is no event; those before it are stored.
        :raises OSError: when the file cannot be read.
        """
        project = self._project
        return load_file(project.warehouse, Path(path), now=project.now())

    def set_cohorts(self, cohorts: Mapping[int | str, Collection[str]]) -> None:
        """Replace the cohorts that profile queries may ask for: id to the distinct_ids in it."""
        self._project.profiles.set_cohorts(cohorts)

    def requests(self, path: str | None = None) -> list[RecordedRequest]:
        """Return the newest 10,000 requests, those of one path or all, oldest first."""
        return self._project.journal.requests(path)

    def play(
        self,
        *faults: Fault,
        path: str | None = None,
        when: Callable[[RecordedRequest], bool] | None = None,
    ) -> None:
        """Script faults: each happens to the next request it is meant for, in this order.

        `path` limits them to an endpoint. `when` is asked about each request, its body read, so
        that a `reset` before or during the body then comes after it, still ingesting nothing.
        """
        self._project.script.add(faults, path=path, when=when)

    def wait_for(self, n_events: int, *, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Wait until so many events are stored (each counted once), and return them.

        It blocks its thread: in async code, run it in a worker thread.

        :raises TimeoutError: when fewer have come in time.
        """
        warehouse = self._project.warehouse
        deadline = time.monotonic() + timeout
        while warehouse.copies() < n_events or warehouse.count() < n_events:
            if time.monotonic() >= deadline:
                stored = warehouse.count()
                raise TimeoutError(f"{stored} of {n_events} events came within {timeout:g} s")
            time.sleep(0.005)
        return self.events()

    def clear_faults(self) -> None:
        """Forget the faults still to come: the network is well again."""
        self._project.script.clear()

    def clear(self) -> None:
        """Forget everything sent and loaded, cohorts, and faults still to come; keep the flags."""
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
        """Start, without holding up the event loop."""
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

    `started` is called once it answers, to print its url. Takes the options of `Emulator`.
    """
    until_interrupted = contextlib.suppress(KeyboardInterrupt)
    with Emulator(port=port, db=db, **options) as emulator, _terminable(), until_interrupted:
        if started is not None:
            started(emulator)
        while True:
            time.sleep(3600)


def _several(names: Collection[str] | None) -> Collection[str] | None:
    # A string is a collection of strings as well, but never the one that is meant.
    return {names} if isinstance(names, str) else names


def _checked_port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ConfigurationError(f"port={port!r} must be a number from 0 (any free one) to 65535")
    return port


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if isinstance(address, str) and ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise ConfigurationError(f"the emulator answers on loopback addresses only, not on {host!r}")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the main thread the way Ctrl-C does."""

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
