"""`mp spool`: what programs have left on disk."""

import json

import pytest
from typer.testing import CliRunner

from mixpanel import BufferedConsumer, Mixpanel, RetryPolicy
from mixpanel.cdp import CustomerIO
from mixpanel.cli._options.global_options import reset
from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from tests.faults.kinds import KINDS
from tests.faults.server import FaultServer


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture
def spool(tmp_path, monkeypatch):
    for name in ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID", "MP_SPOOL", "MP_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MP_CONFIG_PATH", str(tmp_path / "config.toml"))
    return tmp_path / "spool"


@pytest.fixture
def mp(spool):
    def run(*arguments):
        reset([])
        command = ["spool", arguments[0], "--spool", str(spool), *arguments[1:]]
        return CliRunner().invoke(app, command, env={"COLUMNS": "80", "NO_COLOR": "1"})

    return run


def fill(spool, url, count=3, faults=(), server=None):
    """Leave messages in a spool, as a program that has ended; return its consumer."""
    if server is not None:
        server.script[:] = [KINDS[name] for name in faults]
    consumer = BufferedConsumer(
        base_url=url, spool=spool, retry=RetryPolicy(attempts=1, first_wait=0.01)
    )
    client = Mixpanel("t", consumer)
    for number in range(count):
        client.track("u", "Visit", {"m": number})
    client.commit()
    return consumer


def rows(result):
    assert result.exit_code == ExitCode.OK, result.output
    return json.loads(result.stdout)


def test_ls_shows_what_waits_and_whose_it_is(mp, spool):
    """A file of a living process is shown, with its process, and not changed."""
    consumer = fill(spool, "http://127.0.0.1:9")
    (found,) = rows(mp("ls"))["files"]
    assert (found["state"], found["messages"], found["dead"]) == ("in use", {"events": 3}, 0)
    assert found["pid"].isdigit()
    assert found["origin"] == "http://127.0.0.1:9"
    consumer.close(0.05)
    (found,) = rows(mp("ls"))["files"]
    assert (found["state"], found["messages"]) == ("waiting", {"events": 3})
    table = mp("ls", "--format", "table").stdout
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "waiting" in table


def test_stats_counts_by_destination_and_endpoint(mp, spool):
    """Each server has counts of its own."""
    fill(spool, "http://127.0.0.1:9").close(0.05)
    fill(spool, "http://127.0.0.1:10", 5).close(0.05)
    found = {each["origin"]: each for each in rows(mp("stats"))["destinations"]}
    assert found["http://127.0.0.1:9"]["messages"] == {"events": 3}
    assert found["http://127.0.0.1:10"]["messages"] == {"events": 5}
    assert "events" in mp("stats", "--format", "table").stdout


def test_drain_sends_what_dead_processes_have_left(mp, spool, server):
    """Its files are gone afterwards; those of a living process stay."""
    fill(spool, server.url, 30, ["503 own"] * 5, server).close(0.05)
    server.script.clear()
    (row,) = rows(mp("drain", "--timeout", "20"))
    assert (row["delivered"], row["pending"]) == (30, 0)
    assert len(server.record.applied) == 30
    assert rows(mp("ls"))["files"] == []
    assert rows(mp("drain")) == []


def test_drain_says_what_it_cannot_send(mp, spool):
    """Messages of Customer.io need its key, and an unreachable server leaves them pending."""
    client = CustomerIO("key", base_url="http://127.0.0.1:9", spool=spool)
    client.track("u", "Visit")
    client.commit()
    client.close(0.05)
    result = mp("drain", "--timeout", "0.2")
    assert result.exit_code == ExitCode.PARTIAL
    assert "needs the write key of customerio" in " ".join(result.stderr.split())


def test_export_writes_messages_and_leaves_them(mp, spool):
    """As JSON lines, without those of a living process."""
    consumer = fill(spool, "http://127.0.0.1:9")
    result = mp("export", "--format", "jsonl")
    assert result.stdout == ""
    assert "in use by a running process" in result.stderr
    consumer.close(0.05)
    for _ in range(2):
        lines = [json.loads(line) for line in mp("export", "--format", "jsonl").stdout.splitlines()]
        assert [line["message"]["properties"]["m"] for line in lines] == [0, 1, 2]
        assert lines[0]["endpoint"] == "events"


def test_dead_letters_are_exported_retried_and_purged(mp, spool, server):
    """With their reason; a retried one is sent again under its own key."""
    consumer = fill(spool, server.url, 2, ["400"] * 5, server)
    consumer.flush()
    consumer.close()
    server.script.clear()
    lines = [
        json.loads(line) for line in mp("export", "--dead", "--format", "jsonl").stdout.splitlines()
    ]
    assert [line["reason"] for line in lines] == ["rejected", "rejected"]
    assert "400" in lines[0]["error"]
    assert rows(mp("retry", "--reason", "expired")) == []
    assert rows(mp("retry")) == [{"reason": "rejected", "messages": 2}]
    assert rows(mp("drain"))[0]["delivered"] == 2
    (key,) = server.record.keys[0]
    assert key[3] == lines[0]["message"]["properties"]["$insert_id"]


@pytest.mark.parametrize("command", ["export", "retry", "purge --dead --yes"])
def test_a_damaged_file_is_set_aside_and_the_others_are_read(mp, spool, command):
    """It is named, kept, and counted as damaged before and after."""
    fill(spool, "http://127.0.0.1:9", 3).close(timeout=0)
    (path,) = spool.rglob("*.db")
    damaged = path.with_name(f"{'f' * 16}.v1.db")
    damaged.write_bytes(b"x" * 8192)
    damaged.chmod(0o600)
    assert rows(mp("stats"))["destinations"][0]["damaged"] == 1
    result = mp(*command.split())
    assert result.exit_code == ExitCode.OK, result.output
    (kept,) = spool.rglob("*.corrupt-*")
    assert kept.name in "".join(result.stderr.split())
    assert kept.read_bytes() == b"x" * 8192
    assert rows(mp("stats"))["destinations"][0]["damaged"] == 1
    if command == "export":
        assert len(result.stdout.splitlines()) == 3


def test_purge_asks_and_deletes_what_was_chosen(mp, spool):
    """Nothing is deleted by accident, and nothing of a living process at all."""
    consumer = fill(spool, "http://127.0.0.1:9")
    assert rows(mp("purge", "--all", "--force")) == {"waiting": 0, "dead": 0, "damaged_files": 0}
    consumer.close(0.05)
    assert mp("purge").exit_code == ExitCode.USAGE
    assert mp("purge", "--all").exit_code == ExitCode.USAGE  # no terminal to ask
    assert rows(mp("purge", "--dead", "--force"))["waiting"] == 0
    assert rows(mp("purge", "--all", "--force"))["waiting"] == 3
    assert rows(mp("ls"))["files"] == []


def test_a_folder_that_is_no_spool_is_refused(mp, spool):
    """With what to do."""
    result = mp("ls")
    assert result.exit_code != ExitCode.OK
    assert "there is no spool at" in result.output
