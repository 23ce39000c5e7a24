"""Local flags: fetched, kept through bad responses, shared between processes."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time

import anyio
import pytest

from mixpanel import (
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    LocalFlagsConfig,
    Mixpanel,
    MixpanelException,
    SyncInAsyncError,
)
from mixpanel._runtime.file_lock import FileLock
from mixpanel.emulator import Fault
from mixpanel.flags import SelectedVariant, overrides
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from mixpanel.flags.overrides import override_flags

pytestmark = pytest.mark.slow

USER = {"distinct_id": "u-17"}
NONE = SelectedVariant("fallback")


def flag(key="checkout", value=True, **more):
    return {
        "key": key,
        "context": "distinct_id",
        "ruleset": {
            "variants": [{"key": "on", "value": value, "split": 1.0}],
            "rollout": [{"rollout_percentage": 1.0}],
        },
        **more,
    }


def provider(emu, exposures=None, **config):
    config.setdefault("polling_interval_in_seconds", 0.1)
    track = (
        (lambda *exposure: exposures.append(exposure)) if exposures is not None else lambda *_: None
    )
    return LocalFeatureFlagsProvider("t", LocalFlagsConfig(base_url=emu.url, **config), "1", track)


def until(promise, timeout=60.0):
    end = time.monotonic() + timeout
    while not promise() and time.monotonic() < end:
        time.sleep(0.01)
    assert promise()


def polls(emu):
    return len(emu.requests("/flags/definitions"))


# ---- fetching -----------------------------------------------------------------------------------


def test_definitions_are_fetched_and_evaluated(emu):
    """Start, evaluate, stop."""
    emu.set_flags([flag()])
    with provider(emu) as flags:
        assert not flags.are_flags_ready()
        assert flags.get_variant("checkout", NONE, USER).fallback_reason.kind == "FLAG_NOT_FOUND"
        flags.start_polling_for_definitions()
        assert flags.are_flags_ready()
        assert flags.is_enabled("checkout", USER)
        assert flags.get_variant_value("other", "fallback", USER) == "fallback"
        assert list(flags.get_all_variants(USER)) == ["checkout"]
        assert flags.staleness < 5


@pytest.mark.anyio
async def test_the_async_methods_do_the_same(emu, anyio_backend):
    """On every loop, without blocking it."""
    emu.set_flags([flag()])
    async with provider(emu) as flags:
        await flags.astart_polling_for_definitions()
        assert flags.is_enabled("checkout", USER)
        assert await flags.await_until_ready(1)
        await flags.astop_polling_for_definitions()
        await flags.astop_polling_for_definitions()


def test_a_change_is_fetched_and_listeners_are_called(emu):
    """Listeners get the keys that changed, and only those."""
    changes = []
    emu.set_flags([flag("a"), flag("b")])
    with provider(emu) as flags:
        flags.start_polling_for_definitions()
        remove = flags.add_listener(lambda keys: changes.append(set(keys)))
        flags.add_listener(lambda _keys: 1 / 0)
        emu.set_flags([flag("a", value=False), flag("b"), flag("c")])
        until(lambda: changes)
        assert not flags.is_enabled("a", USER)
        remove()
        emu.set_flags([])
        until(lambda: not flags.get_all_variants(USER))
    assert changes == [{"a", "c"}]


def test_an_etag_saves_the_response_body(emu):
    """304 keeps the definitions, which count as current."""
    emu.set_flags([flag()])
    with provider(emu) as flags:
        flags.start_polling_for_definitions()
        until(lambda: polls(emu) >= 3)
        assert flags.is_enabled("checkout", USER)
    assert [r.status for r in emu.requests("/flags/definitions")][1:3] == [304, 304]


def test_without_polling_definitions_are_fetched_once(emu):
    """For short scripts."""
    emu.set_flags([flag()])
    with provider(emu, enable_polling=False, polling_interval_in_seconds=0.02) as flags:
        flags.start_polling_for_definitions()
        time.sleep(0.2)
        assert flags.is_enabled("checkout", USER)
    assert polls(emu) == 1


BAD_ANSWERS = [
    Fault.html(),
    Fault.malformed(),
    Fault.status(200, body={"oops": 1}),
    Fault.status(200, body={"flags": "none"}),
    Fault.status(200, body={"flags": [{"broken": True}]}),
    Fault.status(200, body={"flags": []}),
    Fault.status(200, body=[]),
    Fault.status(401),
    Fault.status(429, retry_after=0),
    Fault.status(500),
    Fault.reset("before"),
    Fault.truncated(),
]


@pytest.mark.parametrize("fault", BAD_ANSWERS, ids=lambda f: f.name)
def test_the_last_good_definitions_stay_through_bad_responses(emu, fault):
    """HTML, one malformed flag, suddenly no flags, errors: no user's variant changes."""
    emu.set_flags([flag()])
    with provider(emu, polling_interval_in_seconds=0.05) as flags:
        flags.start_polling_for_definitions()
        emu.play(fault, path="/flags/definitions")
        until(lambda: polls(emu) >= 3)
        assert flags.is_enabled("checkout", USER)


def test_a_malformed_flag_keeps_its_last_good_definition(emu):
    """The other flags change, this one stays as it was."""
    emu.set_flags([flag("a"), flag("b", value=1)])
    with provider(emu, polling_interval_in_seconds=0.05) as flags:
        flags.start_polling_for_definitions()
        emu.set_flags([{"key": "a", "context": 5}, flag("b", value=2)])
        until(lambda: flags.get_variant_value("b", 0, USER) == 2)
        assert flags.is_enabled("a", USER)
        assert flags.definitions.diagnostics[0].flag_key == "a"


def test_an_empty_response_is_accepted_the_second_time(emu):
    """The last flag may really have been archived."""
    emu.set_flags([flag()])
    with provider(emu, polling_interval_in_seconds=0.05) as flags:
        flags.start_polling_for_definitions()
        emu.set_flags([])
        until(lambda: not flags.get_all_variants(USER))


def test_an_empty_response_is_confirmed_by_the_next_one_only(emu):
    """A response that nothing has changed shows that the one before was a mistake."""
    emu.set_flags([flag()])
    with provider(emu, polling_interval_in_seconds=0.02) as flags:
        flags.start_polling_for_definitions()
        for _ in range(3):
            emu.play(Fault.status(200, body={"flags": []}), path="/flags/definitions")
            until(lambda: flags.last_error is not None)
            until(lambda: flags.last_error is None)
        assert flags.is_enabled("checkout", USER)
    assert 304 == emu.requests("/flags/definitions")[-1].status


def test_a_first_fetch_that_fails_is_retried_soon(emu, monkeypatch):
    """Start returns; the definitions are there once the server responds."""
    monkeypatch.setattr("mixpanel.flags._fetching.poller.FIRST_RETRY", 0.02)
    emu.set_flags([flag()])
    emu.play(Fault.status(503) * 2, path="/flags/definitions")
    with provider(emu, polling_interval_in_seconds=60) as flags:
        flags.start_polling_for_definitions()
        assert not flags.are_flags_ready()
        assert flags.wait_until_ready(5)
        assert flags.is_enabled("checkout", USER)


def test_log_messages_contain_no_url_and_no_token(emu, caplog):
    """The first failure is a warning, without anything that could be a secret."""
    emu.play(Fault.status(401, body={"error": "bad token"}).forever(), path="/flags/definitions")
    config = LocalFlagsConfig(base_url=emu.url, polling_interval_in_seconds=0.02)
    with LocalFeatureFlagsProvider("tok-canary", config, "1", lambda *_: None) as flags:
        flags.start_polling_for_definitions()
        until(lambda: polls(emu) >= 2)
    assert "HTTP 401: bad token" in caplog.text
    assert "canary" not in caplog.text
    assert caplog.text.count("could not be fetched") == 1


# ---- life ---------------------------------------------------------------------------------------


def test_one_provider_outlives_its_event_loop(emu):
    """The poller does not run in the caller's loop."""
    emu.set_flags([flag()])
    flags = provider(emu)
    asyncio.run(flags.astart_polling_for_definitions())
    seen = polls(emu)
    until(lambda: polls(emu) > seen + 1)
    asyncio.run(flags.astop_polling_for_definitions())
    flags.shutdown()


def test_stop_is_bounded_and_idempotent(emu):
    """Even while the server does not respond; and it can start again."""
    emu.set_flags([flag()])
    flags = provider(emu)
    flags.start_polling_for_definitions()
    emu.play(Fault.silence().forever(), path="/flags/definitions")
    seen = polls(emu)
    until(lambda: polls(emu) > seen)
    flags.stop_polling_for_definitions()
    flags.stop_polling_for_definitions()
    emu.play()
    assert flags.is_enabled("checkout", USER)
    flags.shutdown()
    flags.shutdown()


@pytest.mark.anyio
async def test_blocking_starts_are_rejected_in_a_loop(emu, anyio_backend):
    """The error names the method to await instead."""
    flags = provider(emu)
    with pytest.raises(SyncInAsyncError):
        flags.start_polling_for_definitions()
    flags.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_starts_its_own_polling(emu):
    """The poller's thread does not survive a fork; the first evaluation starts another."""
    emu.set_flags([flag()])
    with provider(emu) as flags:
        flags.start_polling_for_definitions()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert flags.is_enabled("checkout", USER)
                polls(emu)
                until(lambda: not flags.is_enabled("checkout", USER))
                code = 0
            finally:
                os._exit(code)
        emu.set_flags([flag(value=False)])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---- bootstrap, snapshot, lease -----------------------------------------------------------------


def test_a_bootstrap_is_served_before_and_without_any_fetch(emu, tmp_path):
    """From a dict or a file; offline never fetches."""
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": [flag()]}))
    for bootstrap in ({"flags": [flag()]}, path, str(path)):
        with provider(emu, bootstrap=bootstrap, offline=True) as flags:
            flags.start_polling_for_definitions()
            assert flags.are_flags_ready()
            assert flags.is_enabled("checkout", USER)
    assert polls(emu) == 0
    for nonsense in (tmp_path / "missing.json", {"oops": 1}, [flag()], 7):
        with pytest.raises(ConfigurationError):
            provider(emu, bootstrap=nonsense)


def test_the_last_good_definitions_survive_the_process(emu, tmp_path):
    """A snapshot is served immediately after a restart, even while Mixpanel is down."""
    path = tmp_path / "state" / "flags.json"
    emu.set_flags([flag()])
    with provider(emu, snapshot_path=path) as flags:
        flags.start_polling_for_definitions()
    emu.play(Fault.status(503).forever())
    with provider(emu, snapshot_path=path) as flags:
        assert flags.is_enabled("checkout", USER)
        assert flags.staleness is not None
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"payload": 1}', b"\xff" * 100])
def test_a_damaged_snapshot_is_ignored(emu, tmp_path, content):
    """It is a convenience, never a reason to fail."""
    path = tmp_path / "flags.json"
    path.write_bytes(content)
    emu.set_flags([flag()])
    with provider(emu, snapshot_path=path) as flags:
        assert not flags.are_flags_ready()
        flags.start_polling_for_definitions()
        assert flags.is_enabled("checkout", USER)


def test_a_snapshot_of_another_project_is_not_served(emu, tmp_path):
    """Two projects on one host do not mix."""
    path = tmp_path / "flags.json"
    emu.set_flags([flag()])
    with provider(emu, snapshot_path=path) as flags:
        flags.start_polling_for_definitions()
    config = LocalFlagsConfig(base_url=emu.url, snapshot_path=path)
    other = LocalFeatureFlagsProvider("another", config, "1", lambda *_: None)
    assert not other.are_flags_ready()


WORKER = """
import sys, time
from mixpanel import LocalFlagsConfig
from mixpanel._runtime.file_lock import FileLock
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
url, path, interval = sys.argv[1], sys.argv[2], float(sys.argv[3])
config = LocalFlagsConfig(base_url=url, snapshot_path=path, share_polling=True,
                          polling_interval_in_seconds=interval)
flags = LocalFeatureFlagsProvider("t", config, "1", lambda *_: None)
flags.start_polling_for_definitions()
assert flags.wait_until_ready(10)
user = {"distinct_id": "u"}
for line in sys.stdin:
    leads = flags._lease is not None and flags._lease.is_held
    print(flags.get_variant_value("checkout", None, user), leads, flush=True)
"""


class Worker:
    """A process of its own that reports the variant it serves and whether it holds the lease."""

    def __init__(self, emu, path, interval):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), emu.url, str(path), str(interval)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def ask(self):
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        value, leads = self.process.stdout.readline().split()
        return value, leads == "True"

    def end(self):
        self.process.kill()
        self.process.communicate()


class Forked:
    """The same as a fork of this process, as preloading web servers start their workers."""

    def __init__(self, flags):
        self._ours, theirs = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                flags.start_polling_for_definitions()
                flags.wait_until_ready(10)
                while theirs.recv():
                    leads = flags._lease.is_held
                    theirs.send((str(flags.get_variant_value("checkout", None, USER)), leads))
            finally:
                os._exit(0)
        theirs.close()

    def ask(self):
        self._ours.send(True)
        return self._ours.recv()

    def end(self):
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._ours.close()


@pytest.mark.skipif(os.name != "posix", reason="the lease is a POSIX lock")
@pytest.mark.parametrize("kind", ["spawned", "forked"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_four_workers_poll_once_and_survive_their_leader(emu, tmp_path, kind):
    """Polls are billed: one per interval for all; after kill -9 another takes over within two."""
    interval, path = 0.5, tmp_path / "flags.json"
    emu.set_flags([flag(value=1)])
    preloaded = provider(
        emu, snapshot_path=path, share_polling=True, polling_interval_in_seconds=interval
    )
    workers = [
        Worker(emu, path, interval) if kind == "spawned" else Forked(preloaded) for _ in range(4)
    ]
    try:
        assert [w.ask()[0] for w in workers] == ["1"] * 4
        leaders = [w for w in workers if w.ask()[1]]
        assert len(leaders) == 1
        before, began = polls(emu), time.monotonic()
        time.sleep(4 * interval)
        intervals = (time.monotonic() - began) / (0.9 * interval)
        assert 2 <= polls(emu) - before <= intervals + 1
        emu.set_flags([flag(value=2)])
        until(lambda: all(w.ask()[0] == "2" for w in workers))
        os.kill(leaders[0].pid, signal.SIGKILL)
        rest = [w for w in workers if w is not leaders[0]]
        emu.set_flags([flag(value=3)])
        until(lambda: sum(w.ask()[1] for w in rest) == 1)
        until(lambda: all(w.ask()[0] == "3" for w in rest))
    finally:
        for worker in workers:
            worker.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_idle_forked_child_does_not_keep_the_lease(tmp_path):
    """Once its holder releases the lease it is free, whatever was forked meanwhile."""
    lease, other = FileLock(tmp_path / "lease"), FileLock(tmp_path / "lease")
    assert lease.acquire()
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            theirs.send(not lease.is_held)
            theirs.recv()
        finally:
            os._exit(0)
    try:
        assert ours.recv()
        assert not other.acquire()
        lease.release()
        assert other.acquire()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        other.release()
        ours.close()
        theirs.close()


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), None, "soon"])
def test_an_invalid_polling_interval_is_rejected(emu, interval):
    """There is no polling without a pause."""
    with pytest.raises(ConfigurationError, match="polling_interval_in_seconds"):
        provider(emu, polling_interval_in_seconds=interval)


def test_a_snapshot_path_that_is_a_directory_is_rejected(emu, tmp_path):
    """Immediately; one that becomes a directory later only fails to be saved."""
    with pytest.raises(ConfigurationError, match="directory"):
        provider(emu, snapshot_path=tmp_path)
    emu.set_flags([flag()])
    with provider(emu, snapshot_path=tmp_path / "flags.json", enable_polling=False) as flags:
        (tmp_path / "flags.json").mkdir()
        assert flags._snapshot.load() is None
        flags.start_polling_for_definitions()
        assert flags.is_enabled("checkout", USER)


@pytest.mark.parametrize(
    "fetched_at", ["1" + "0" * 400, "1e999", "-1", "NaN", "null", '"now"', "99999999999"]
)
def test_a_snapshot_with_an_invalid_time_is_ignored(emu, tmp_path, fetched_at):
    """Whatever its `fetched_at` holds."""
    path = tmp_path / "flags.json"
    emu.set_flags([flag()])
    with provider(emu, snapshot_path=path, enable_polling=False) as flags:
        flags.start_polling_for_definitions()
    written = re.sub(r'"fetched_at":[^,]+', f'"fetched_at":{fetched_at}', path.read_text())
    assert fetched_at in written
    path.write_text(written)
    assert not provider(emu, snapshot_path=path).are_flags_ready()


def test_sharing_requires_a_snapshot_path(emu):
    """The lease is a file next to the snapshot."""
    with pytest.raises(ConfigurationError, match="snapshot_path"):
        provider(emu, share_polling=True)


# ---- exposures ----------------------------------------------------------------------------------


def test_an_exposure_is_reported_once_per_time_to_live(emu):
    """By flag, variant and assignment value; manual reports are always sent."""
    exposures = []
    with provider(emu, exposures, bootstrap={"flags": [flag()]}, offline=True) as flags:
        for _ in range(5):
            flags.get_variant("checkout", NONE, USER)
        flags.get_variant("checkout", NONE, {"distinct_id": "other"})
        flags.get_variant("checkout", NONE, {"distinct_id": "third"}, report_exposure=False)
        flags.get_variant("missing", NONE, USER)
        assert [distinct_id for distinct_id, _, _ in exposures] == ["u-17", "other"]
        variant = flags.get_variant("checkout", NONE, USER)
        flags.track_exposure_event("checkout", variant, USER)
        flags.track_exposure_event("checkout", variant, USER)
    assert len(exposures) == 4
    _distinct_id, event, properties = exposures[0]
    assert event == "$experiment_started"
    assert properties["Experiment name"] == "checkout"
    assert properties["Variant name"] == "on"
    assert properties["Flag evaluation mode"] == "local"
    assert "Variant fetch latency (ms)" in properties
    assert "Variant fetch latency (ms)" not in exposures[-1][2]


def test_an_error_of_the_tracker_does_not_reach_the_evaluation(emu):
    """Whatever it raises."""
    config = LocalFlagsConfig(bootstrap={"flags": [flag()]}, offline=True)
    flags = LocalFeatureFlagsProvider("t", config, "1", lambda *_: 1 / 0)
    assert flags.is_enabled("checkout", USER)
    flags.track_exposure_event("checkout", flags.get_variant("checkout", NONE, USER), USER)


class CustomConsumer:
    def __init__(self):
        self.calls = []

    def send(self, endpoint, json_message, *_):
        time.sleep(0.05)
        self.calls.append((threading.current_thread(), json.loads(json_message)))


@pytest.mark.parametrize("kind", ["at once", "buffered", "custom"])
def test_exposures_of_a_sync_client_never_block(emu, kind):
    """With every consumer they are enqueued, and sent in the background or at close."""
    emu.play(Fault.latency(0.2).forever(), path="/track")
    config = LocalFlagsConfig(bootstrap={"flags": [flag()]}, offline=True)
    given = {
        "at once": None,
        "buffered": BufferedConsumer(base_url=emu.url),
        "custom": CustomConsumer(),
    }
    options = {"base_url": emu.url} if kind == "at once" else {}
    mp = Mixpanel("t", given[kind], local_flags_config=config, **options)
    began = time.perf_counter()
    assert mp.local_flags.is_enabled("checkout", USER)
    took = time.perf_counter() - began
    if kind == "custom":
        mp.flush()
        assert given[kind].calls[0][0] is not threading.current_thread()
        mp.close()
        return
    assert took < 5
    assert emu.requests("/track") == []
    assert mp.flush().ok
    [event] = emu.events("$experiment_started")
    assert event["properties"]["distinct_id"] == "u-17"
    mp.close()
    mp._delivery.closed or mp.consumer.close()


@pytest.mark.anyio
async def test_an_async_client_starts_and_stops_its_flags(emu, anyio_backend):
    """`async with` fetches first, and delivers the exposures at the end."""
    emu.set_flags([flag()])
    config = LocalFlagsConfig(polling_interval_in_seconds=0.1)
    async with AsyncMixpanel("t", base_url=emu.url, local_flags_config=config) as mp:
        assert mp.local_flags.is_enabled("checkout", USER)
        with pytest.raises(MixpanelException, match="remote_flags_config"):
            _ = mp.remote_flags
    assert len(emu.events("$experiment_started")) == 1
    seen = polls(emu)
    await anyio.sleep(0.3)
    assert polls(emu) == seen


def test_the_clients_region_applies_to_flags(monkeypatch):
    """Unless the configuration has another."""
    config = LocalFlagsConfig(offline=True)
    mp = Mixpanel("t", region="eu", local_flags_config=config)
    assert mp.local_flags._api.origin == "https://api-eu.mixpanel.com"
    config = LocalFlagsConfig(offline=True, api_host="https://flags.example")
    mp = Mixpanel("t", region="eu", local_flags_config=config)
    assert mp.local_flags._api.origin == "https://flags.example"


# ---- overrides ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_overrides_nest_and_stay_in_their_task(emu, anyio_backend):
    """Each task has its own."""
    seen = {}
    with provider(emu, bootstrap={"flags": [flag()]}, offline=True) as flags:

        async def serve(n):
            with override_flags({"checkout": n}):
                await anyio.sleep(0.01)
                with override_flags(other=-n):
                    seen[n] = [
                        flags.get_variant_value(k, None, USER) for k in ("checkout", "other")
                    ]
                assert flags.get_variant_value("other", None, USER) is None

        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(serve, n)
        assert flags.is_enabled("checkout", USER)
    assert seen == {n: [n, -n] for n in range(5)}


class Interrupted(LocalFeatureFlagsProvider):
    """Another thread acts just before this one sets the active flags."""

    meanwhile = None

    @property
    def _active_flags(self):
        return self.__dict__["flags at hand"]

    @_active_flags.setter
    def _active_flags(self, flags):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self.__dict__["flags at hand"] = flags


@pytest.fixture
def interrupted(monkeypatch):
    monkeypatch.setattr(overrides, "ever_used", False)
    config = LocalFlagsConfig(bootstrap={"flags": [flag(value="old")]}, offline=True)
    with Interrupted("t", config, "1", lambda *_: None) as flags:
        yield flags


def test_a_slow_look_up_does_not_restore_old_definitions(interrupted):
    """Definitions may change while a look-up sets the active flags."""
    new = interrupted._parse({"flags": [flag(value="new")]})
    interrupted.meanwhile = lambda: interrupted._replace(new, None)
    assert interrupted.get_variant_value("unknown", None, USER) is None
    assert interrupted.get_variant_value("checkout", None, USER) == "new"


def test_an_override_applies_although_definitions_change_meanwhile(interrupted):
    """In this thread only, from its first line on."""
    new = interrupted._parse({"flags": [flag(value="new")]})
    with contextlib.ExitStack() as stack:
        interrupted.meanwhile = lambda: stack.enter_context(override_flags(checkout="other"))
        interrupted._replace(new, None)
        assert interrupted.get_variant_value("checkout", None, USER) == "other"
        interrupted._replace(interrupted._parse({"flags": [flag(value="newer")]}), None)
        assert interrupted.get_variant_value("checkout", None, USER) == "other"
    assert interrupted.get_variant_value("checkout", None, USER) == "newer"
