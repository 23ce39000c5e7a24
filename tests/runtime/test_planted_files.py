"""Files that other users could plant where this package reads and writes."""

import hashlib
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from mixpanel import ConfigurationError, LocalFlagsConfig
from mixpanel._runtime.file_lock import FileLock
from mixpanel.cdp import HightouchOAuth
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.data.config import Config
from mixpanel.data.exceptions import ConfigError
from mixpanel.emulator import Fault
from mixpanel.flags._fetching.snapshot_file import SavedDefinitions, SnapshotFile
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from tests.cli.cli_data import wait_until
from tests.runtime.test_private_files import make_device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="owners, modes and links of POSIX"),
]
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away"
)
NOBODY = 65534
USER = {"distinct_id": "u"}
RUN = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]
ACCOUNT = {"username": "robot", "secret": "hunter2", "project_id": "42"}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def abandoned(path, content=b"secret"):
    """Leave what a killed writer of this path leaves."""
    left = path.with_name(f".{path.name}.{'0a' * 8}.tmp")
    left.write_bytes(content)
    return left


# ---- the flag snapshot --------------------------------------------------------------------------


def flag(value):
    return {
        "key": "checkout",
        "context": "distinct_id",
        "ruleset": {
            "variants": [{"key": "on", "value": value, "split": 1.0}],
            "rollout": [{"rollout_percentage": 1.0}],
        },
    }


def snapshot(path, value="planted"):
    """Write a snapshot that would be served, if its file were trusted."""
    project = hashlib.sha256(b"t").hexdigest()[:16]
    saved = {"project": project, "fetched_at": time.time(), "etag": None}
    path.write_text(json.dumps({**saved, "payload": {"flags": [flag(value)]}}))
    path.chmod(0o600)
    return path


def provider(path, url="https://api.mixpanel.com", **config):
    config = LocalFlagsConfig(
        base_url=url, snapshot_path=path, polling_interval_in_seconds=0.05, **config
    )
    return LocalFeatureFlagsProvider("t", config, "1", lambda *_: None)


def test_a_snapshot_of_this_user_is_served(tmp_path):
    """This shows that the refusals in the next tests are due to the file."""
    with provider(snapshot(tmp_path / "flags.json")) as flags:
        assert "planted" == flags.get_variant_value("checkout", None, USER)


def spoiled(path, how):
    """Make a snapshot one that must not be trusted."""
    if how == "group":
        path.chmod(0o620)
    elif how == "everybody":
        path.chmod(0o602)
    elif how == "another user":
        os.chown(path, NOBODY, NOBODY)
    elif how == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    elif how == "large":
        os.truncate(path, 64 * 1024 * 1024 + 1)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("group", "other users may write to it"),
        ("everybody", "other users may write to it"),
        pytest.param("another user", "belongs to another user", marks=as_root),
        ("link", "symbolic link"),
        ("large", "larger than"),
    ],
)
def test_a_snapshot_that_others_could_have_written_is_not_served(emu, tmp_path, caplog, how, why):
    """One warning gives the reason, and the first fetch replaces it by a private file."""
    path = snapshot(tmp_path / "flags.json")
    spoiled(path, how)
    emu.set_flags([flag("fetched")])
    with caplog.at_level(logging.WARNING, "mixpanel"), provider(path, emu.url) as flags:
        assert flags.get_variant_value("checkout", None, USER) is None
        assert flags._snapshot.load(only_new=True) is None
        assert flags._snapshot.touched() is None
        flags.start_polling_for_definitions()
        assert "fetched" == flags.get_variant_value("checkout", None, USER)
    assert 1 == sum(why in message and str(path) in message for message in caplog.messages)
    assert not path.is_symlink()
    assert (0o600, os.geteuid()) == (mode(path), path.stat().st_uid)
    if how == "link":
        assert b"planted" in path.with_name("elsewhere").read_bytes()


@pytest.mark.parametrize("kind", ["fifo", pytest.param("device", marks=as_root), "socket"])
def test_a_snapshot_path_that_is_not_a_file_is_refused_at_once(tmp_path, kind):
    """The constructor does not block, and nothing is replaced."""
    path = tmp_path / "flags.json"
    if kind == "device":
        make_device(path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(ConfigurationError, match=r"snapshot_path .* is not a regular file"):
        provider(path)
    assert not path.is_file()


def test_a_device_that_takes_the_place_of_the_snapshot_is_not_replaced(emu, tmp_path, caplog):
    """What was fetched is served all the same, and a warning says that it is not stored."""
    path = tmp_path / "flags.json"
    emu.set_flags([flag("fetched")])
    with provider(path, emu.url) as flags:
        os.mkfifo(path)
        flags.start_polling_for_definitions()
        assert "fetched" == flags.get_variant_value("checkout", None, USER)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert [] != [text for text in caplog.messages if "could not be written" in text]


def test_a_follower_notices_changes_of_the_same_size(tmp_path):
    """Also in the same file, with the same modification time."""
    path = tmp_path / "flags.json"
    leader, follower = SnapshotFile(path, "t"), SnapshotFile(path, "t")
    seen = []
    for value in ("a", "b", "c"):
        leader.save(SavedDefinitions({"flags": [flag(value)]}, None, 1_000_000.0))
        os.utime(path, ns=(1, 1))
        seen.append(follower.load(only_new=True).payload["flags"][0]["ruleset"]["variants"][0])
        assert follower.load(only_new=True) is None
    assert ["a", "b", "c"] == [variant["value"] for variant in seen]
    size, before = path.stat().st_size, path.stat()
    with path.open("r+b") as file:
        body = file.read().replace(b'"c"', b'"d"')
        file.seek(0)
        file.write(body)
    os.utime(path, ns=(1, 1))
    assert (size, before.st_ino) == (path.stat().st_size, path.stat().st_ino)
    assert follower.load(only_new=True) is not None


def test_a_follower_does_not_reload_a_touched_file(tmp_path):
    """The definitions count as current again, without being read."""
    file = SnapshotFile(tmp_path / "flags.json", "t")
    file.save(SavedDefinitions({"flags": []}, None, 1_000_000.0))
    os.utime(file.path, (1, 1))
    assert file.load() is not None
    file.touch()
    assert file.touched() > time.time() - 60
    assert file.load(only_new=True) is None


def test_temporary_snapshots_of_a_killed_process_are_removed_at_the_next_start(tmp_path):
    """Before anything is fetched."""
    path = snapshot(tmp_path / "flags.json")
    abandoned(path)
    with provider(path):
        assert ["flags.json"] == names(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_planted_lease_does_not_stop_polling(emu, tmp_path, caplog, kind):
    """The process polls on its own, and one warning gives the reason."""
    path, victim = tmp_path / "flags.json", tmp_path / "victim"
    lease = tmp_path / "flags.json.lease"
    victim.write_bytes(b"")
    victim.chmod(0o644)
    lease.symlink_to(victim) if kind == "link" else os.mkfifo(lease)
    emu.set_flags([flag("fetched")])
    with provider(path, emu.url, share_polling=True) as flags:
        flags.start_polling_for_definitions()
        wait_until(lambda: len(emu.requests("/flags/definitions")) > 2)
        assert "fetched" == flags.get_variant_value("checkout", None, USER)
    assert 1 == sum("cannot share polling" in message for message in caplog.messages)
    assert 0o644 == mode(victim)


@pytest.mark.parametrize("kind", ["fifo", "folder", "writable by all", "missing"])
def test_a_bootstrap_must_be_a_regular_file(tmp_path, kind):
    """One error names it and describes the problem."""
    path = tmp_path / "bootstrap.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "writable by all":
        path.write_text('{"flags": []}')
        path.chmod(0o646)
    with pytest.raises(ConfigurationError, match=f"bootstrap {path}: "):
        provider(tmp_path / "flags.json", bootstrap=path)


def test_a_bootstrap_may_be_a_link(tmp_path):
    """Mounted configuration often is."""
    (tmp_path / "mounted.json").write_text(json.dumps({"flags": [flag("mounted")]}))
    (tmp_path / "bootstrap.json").symlink_to("mounted.json")
    with provider(tmp_path / "flags.json", bootstrap=tmp_path / "bootstrap.json") as flags:
        assert "mounted" == flags.get_variant_value("checkout", None, USER)


# ---- a private key ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "folder", "writable by all", "bytes"])
def test_a_private_key_must_be_a_regular_file(tmp_path, kind):
    """Opening it never blocks, and the error names it."""
    pytest.importorskip("jwt")
    path = tmp_path / "key.pem"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff")
        path.chmod(0o646 if kind == "writable by all" else 0o600)
    with pytest.raises(ConfigurationError, match=f"private_key {path}: "):
        HightouchOAuth(client_id="c", private_key=path, key_id="k")


# ---- accounts -----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    found = Config(tmp_path / "config.toml")
    found.add_account("prod", **ACCOUNT)
    return found


@pytest.mark.parametrize(
    ("bits", "why"), [(0o660, "other users may write"), (0o606, "other users may write")]
)
def test_a_config_that_others_may_write_to_is_refused(config, bits, why):
    """They could choose whose account is used; the error recommends chmod."""
    config.path.chmod(bits)
    for use in (config.list_accounts, lambda: config.add_account("other", **ACCOUNT)):
        with pytest.raises(ConfigError, match=why):
            use()
    config.path.chmod(0o600)
    assert ["prod"] == config.names()


@as_root
def test_a_config_of_another_user_is_refused(config):
    """It may be reached by a link of this user, but not by one of theirs."""
    os.chown(config.path, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="belongs to another user"):
        config.list_accounts()
    os.chown(config.path, 0, 0)
    link = config.path.with_name("link.toml")
    link.symlink_to(config.path)
    assert ["prod"] == Config(link).names()
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigError, match="link of another user"):
        Config(link).names()


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
def test_a_planted_lock_of_the_config_changes_no_other_file(config, kind):
    """Neither the content nor the mode of the file that it leads to."""
    lock, victim = config.path.with_name(".config.toml.lock"), config.path.with_name("victim")
    lock.unlink()
    victim.write_text("precious")
    victim.chmod(0o644)
    if kind == "symlink":
        lock.symlink_to(victim)
    elif kind == "hard link":
        lock.hardlink_to(victim)
    else:
        os.mkfifo(lock)
    with pytest.raises(ConfigError, match=r"cannot write .*config\.toml: .*\.lock"):
        config.add_account("other", **ACCOUNT)
    assert ("precious", 0o644, ["prod"]) == (victim.read_text(), mode(victim), config.names())


def test_a_config_that_stays_locked_is_an_error(config, monkeypatch):
    """The wait for a process that hangs is limited."""
    monkeypatch.setattr("mixpanel.data.config.LOCK_TIMEOUT", 0.05)
    lock = FileLock(config.path.with_name(".config.toml.lock"))
    assert lock.acquire()
    with pytest.raises(ConfigError, match="another process has been changing it"):
        config.add_account("other", **ACCOUNT)
    lock.release()
    config.add_account("other", **ACCOUNT)


def test_a_link_at_the_default_path_changes_no_other_folder(tmp_path, monkeypatch):
    """A directory of dotfiles keeps its mode; the file in it is private."""
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (tmp_path / ".mp").mkdir()
    for folder in (dotfiles, tmp_path / ".mp"):
        folder.chmod(0o755)
    (tmp_path / ".mp" / "config.toml").symlink_to(dotfiles / "mp.toml")
    monkeypatch.setenv("HOME", str(tmp_path))
    Config().add_account("prod", **ACCOUNT)
    assert (0o755, 0o700) == (mode(dotfiles), mode(tmp_path / ".mp"))
    assert 0o600 == mode(dotfiles / "mp.toml")


def test_temporary_configs_of_a_killed_process_are_removed_with_the_next_change(config):
    """They hold the secrets of all accounts."""
    abandoned(config.path)
    config.add_account("other", **ACCOUNT)
    assert [".config.toml.lock", "config.toml"] == names(config.path.parent)


# ---- checkpoints --------------------------------------------------------------------------------


def environment(emu):
    return {
        "MP_CUSTOMERIO_WRITE_KEY": "k",
        "MP_CDP_BASE_URL": emu.customerio_url,
        "COLUMNS": "300",
        "NO_COLOR": "1",
    }


@pytest.fixture
def backfill(emu):
    """Run `mp cdp backfill` against the emulator, in this process."""
    runner = CliRunner(env=environment(emu))
    return lambda *arguments: runner.invoke(app, ["cdp", "backfill", *map(str, arguments)])


def history(path, count, bad=()):
    def row(n):
        when = None if n in bad else "2024-01-31T12:00:00Z"
        return {"type": "track", "userId": f"u-{n}", "event": "Paid", "timestamp": when}

    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(count)))
    return path


@pytest.mark.parametrize("more", [[], ["--restart"]])
@pytest.mark.parametrize(
    "kind", ["link", "fifo", "writable by all", pytest.param("another user", marks=as_root)]
)
def test_a_planted_checkpoint_is_refused(backfill, emu, tmp_path, kind, more):
    """It would decide which rows are never sent; nothing is written through it."""
    path, victim = history(tmp_path / "h.ndjson", 3), tmp_path / "victim"
    victim.write_text("precious")
    checkpoint = tmp_path / "h.ndjson.backfill"
    if kind == "link":
        checkpoint.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(checkpoint)
    else:
        checkpoint.write_text('{"version": 1, "position": 0, "rejected": 0}')
        checkpoint.chmod(0o602 if kind == "writable by all" else 0o600)
        if kind == "another user":
            os.chown(checkpoint, NOBODY, NOBODY)
    result = backfill(path, *more)
    assert (ExitCode.USAGE, "precious") == (result.exit_code, victim.read_text())
    assert "it is " in result.stderr or "it belongs to" in result.stderr or "may" in result.stderr
    assert [] == emu.requests()


def test_temporary_names_of_a_checkpoint_are_random(backfill, emu, tmp_path):
    """A file planted under a predictable name is not written through."""
    path, victim = history(tmp_path / "h.ndjson", 3), tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"h.ndjson.backfill.{os.getpid()}.new").symlink_to(victim)
    (tmp_path / f"failed.ndjson.{os.getpid()}.new").symlink_to(victim)
    result = backfill(path, "--failed", tmp_path / "failed.ndjson")
    assert (ExitCode.OK, "precious") == (result.exit_code, victim.read_text())


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_a_planted_lock_of_a_checkpoint_is_refused(backfill, tmp_path, kind):
    """The file that it leads to is neither locked nor removed."""
    path, victim = history(tmp_path / "h.ndjson", 3), tmp_path / "victim"
    victim.write_text("precious")
    lock = tmp_path / ".h.ndjson.backfill.lock"
    lock.symlink_to(victim) if kind == "link" else lock.hardlink_to(victim)
    result = backfill(path)
    assert result.exit_code != ExitCode.OK
    assert ("precious", True) == (victim.read_text(), os.path.lexists(lock))
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_killed_backfill_leaves_only_private_files_and_the_next_run_removes_them(
    emu, tmp_path, umask
):
    """Nothing is lost, no row is sent twice for nothing, and no temporary file stays."""
    path, failed = history(tmp_path / "h.ndjson", 6000, bad=range(0, 6000, 100)), tmp_path / "f"
    emu.play(Fault.latency(0.5).forever())
    arguments = ["cdp", "backfill", str(path), "--concurrency", "1", "--failed", str(failed)]
    process = subprocess.Popen(
        [*RUN, *arguments],
        env={**os.environ, **environment(emu)},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.umask(umask),  # noqa: PLW1509
    )
    checkpoint = tmp_path / "h.ndjson.backfill"
    wait_until(lambda: checkpoint.exists() and json.loads(checkpoint.read_text())["position"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {0o600} == {mode(one) for one in tmp_path.iterdir() if one != path}
    abandoned(checkpoint)
    abandoned(failed)
    emu.clear_faults()
    result = CliRunner(env=environment(emu)).invoke(app, arguments)
    assert ExitCode.PARTIAL == result.exit_code
    assert {"delivered": 5940, "rejected": 60}.items() <= json.loads(result.stdout).items()
    assert ["f", "h.ndjson"] == names(tmp_path)
    refused = sorted(json.loads(line)["position"] for line in failed.read_text().splitlines())
    assert list(range(0, 6000, 100)) == refused


# ---- files of what was refused ------------------------------------------------------------------


@pytest.fixture(params=["import", "batch", "backfill"])
def refuse(request, tmp_path):
    """Run each command that writes rejected rows to a file: two rows, the second one refused."""
    runner = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1", "MP_TOKEN": "t"})
    file = tmp_path / "rows.ndjson"
    if request.param == "import":
        good = {"event": "Paid", "properties": {"time": 1_767_268_800, "distinct_id": "u"}}
        rows = [good, {"event": "Paid", "properties": {"distinct_id": "u"}}]
        command = ["import", "events"]
    else:
        good = {"type": "track", "userId": "u", "event": "Paid", "timestamp": "2024-01-31T12:00Z"}
        rows, command = [good, {"type": "track", "userId": "u"}], ["cdp", request.param]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(failed, *more):
        vendor = () if request.param == "import" else ("--to", "customerio", "--write-key", "k")
        arguments = [*command, str(file), "--dry-run", "--failed", str(failed), *vendor, *more]
        result = runner.invoke(app, arguments)
        assert "Traceback" not in result.stderr
        return result

    return run


def positions(path):
    return [json.loads(line)["position"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_of_rejected_rows_is_private(refuse, tmp_path, umask):
    """Under any umask; also where there was one that others could read."""
    failed, before = tmp_path / "failed.ndjson", os.umask(umask)
    try:
        assert ExitCode.PARTIAL == refuse(failed).exit_code
        assert (0o600, [1]) == (mode(failed), positions(failed))
        failed.chmod(0o666)
        assert ExitCode.PARTIAL == refuse(failed).exit_code
    finally:
        os.umask(before)
    assert (0o600, [1]) == (mode(failed), positions(failed))


def test_a_hard_link_is_not_written_through_by_rejected_rows(refuse, tmp_path):
    """The other name keeps its content."""
    failed, victim = tmp_path / "failed.ndjson", tmp_path / "victim"
    victim.write_text("precious")
    failed.hardlink_to(victim)
    assert ExitCode.PARTIAL == refuse(failed).exit_code
    assert ("precious", [1]) == (victim.read_text(), positions(failed))


@as_root
def test_another_users_link_is_not_written_through_by_rejected_rows(refuse, tmp_path):
    """As one that is planted in a shared directory."""
    failed, victim = tmp_path / "failed.ndjson", tmp_path / "victim"
    victim.write_text("precious")
    failed.symlink_to(victim)
    os.chown(failed, NOBODY, NOBODY, follow_symlinks=False)
    result = refuse(failed)
    assert (ExitCode.USAGE, "precious") == (result.exit_code, victim.read_text())
    assert "link of another user" in result.stderr


def test_rejected_rows_may_go_to_a_fifo(refuse, tmp_path):
    """As the shell makes one for >(a command)."""
    failed, read = tmp_path / "fifo", []
    os.mkfifo(failed)
    reader = threading.Thread(target=lambda: read.append(failed.read_text()))
    reader.start()
    assert ExitCode.PARTIAL == refuse(failed).exit_code
    reader.join(30)
    assert 1 == json.loads(read[0])["position"]
    assert stat.S_ISFIFO(failed.stat().st_mode)


def test_a_second_run_with_the_same_file_of_rejected_rows_is_refused(refuse, tmp_path):
    """Else the first would continue to write to a file that was removed."""
    from mixpanel._runtime.private_files import create

    failed = tmp_path / "failed.ndjson"
    with create(failed, [b"{}\n"]):
        result = refuse(failed)
        assert (ExitCode.USAGE, "{}\n") == (result.exit_code, failed.read_text())
        assert "another process writes to" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")  # noqa: PTH110
def test_a_run_ends_when_its_rejected_rows_cannot_be_written(refuse):
    """Continuing would lose them."""
    result = refuse("/dev/full")
    assert ExitCode.PARTIAL != result.exit_code != ExitCode.OK
    assert "cannot write the file of --failed: No space left on device" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")  # noqa: PTH110
def test_an_import_ends_when_its_rejected_rows_cannot_be_written(emu, tmp_path):
    """The message has the counts of what arrived, without a traceback."""
    file = tmp_path / "events.ndjson"
    file.write_text('{"event": "Paid", "properties": {"distinct_id": "u"}}\n' * 5)
    command = [*RUN, "import", "events", str(file), "--failed", "/dev/full", "--token", "t"]
    done = subprocess.run(
        [*command, "--base-url", emu.url],
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode not in (ExitCode.OK, ExitCode.PARTIAL)
    assert "cannot write the file of --failed: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")  # noqa: PTH110
@pytest.mark.parametrize("bad", ["here", "at the server"])
def test_a_batch_reports_its_position_when_rejected_rows_cannot_be_written(emu, tmp_path, bad):
    """The row that could not be written is tried again; those before it were sent."""
    row = {"type": "track", "userId": "u", "event": "Paid"}
    rows = [row, row, row if bad == "at the server" else {"type": "track", "userId": "u"}]
    file = tmp_path / "rows.ndjson"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    if bad == "at the server":
        emu.play(Fault.status(400).forever())
    command = ["cdp", "batch", str(file), "--failed", "/dev/full"]
    result = CliRunner(env=environment(emu)).invoke(app, command)
    assert "cannot write the file of --failed: No space left on device" in result.stderr
    assert f"--start-at {0 if bad == 'at the server' else 2}" in result.stderr
    assert ExitCode.ERROR == result.exit_code


def test_temporary_files_of_rejected_rows_are_removed_by_the_next_run(refuse, tmp_path):
    """They hold personal data."""
    failed = tmp_path / "failed.ndjson"
    left = abandoned(failed)
    refuse(failed)
    assert (False, [1]) == (left.exists(), positions(failed))


# ---- files on the command line ------------------------------------------------------------------


def test_a_file_on_the_command_line_may_be_a_fifo(tmp_path):
    """As the shell makes one for <(a command)."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    body = json.dumps({"flags": [flag("piped")]})
    writer = threading.Thread(target=path.write_text, args=(body,))
    writer.start()
    result = CliRunner().invoke(app, ["flags", "list", "--file", str(path)])
    writer.join(30)
    assert ExitCode.OK == result.exit_code
    assert "checkout" in result.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["flags", "list", "--file", "/dev/zero"],
        ["query", "sql", "--file", "/dev/zero"],
        ["cdp", "track", "Paid", "--user-id", "u", "--properties", "@/dev/zero", "--dry-run"],
    ],
    ids=lambda command: command[0],
)
def test_an_endless_file_is_an_error(command):
    """Before memory is full."""
    result = CliRunner(env={"COLUMNS": "300", "MP_CUSTOMERIO_WRITE_KEY": "k"}).invoke(app, command)
    assert result.exit_code != ExitCode.OK
    assert "it is larger than" in result.stderr
