"""`mp spool`: what programs have left on disk."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixpanel import BufferedConsumer, Limits, Mixpanel, RetryPolicy
from mixpanel.cdp import CustomerIO, Hightouch, RudderStack, Segment
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


VENDORS = {
    "customerio": CustomerIO, "hightouch": Hightouch, "segment": Segment, "rudderstack": RudderStack
}  # fmt: skip


def fill_cdp(spool, url, vendor="customerio", key="key", count=3):
    """Leave messages of a CDP client in a spool; return the client."""
    client = VENDORS[vendor](
        key,
        base_url=url,
        spool=spool,
        retry=RetryPolicy(attempts=1, first_wait=0.01),
        limits=Limits(flush_after=1000.0),
    )
    for number in range(count):
        client.track("u", "Visit", {"m": f"{vendor}-{key}-{number}"})
    client.commit()
    return client


NOWHERE = "http://127.0.0.1:9"


@pytest.mark.slow
@pytest.mark.parametrize("vendor", VENDORS)
def test_drain_sends_messages_of_each_vendor_with_the_key_of_the_environment(
    mp, spool, server, vendor, monkeypatch
):
    """To the address that their client sent to."""
    url = f"{server.url}/cio"
    server.script[:] = [KINDS["503 own"]] * 20
    fill_cdp(spool, url, vendor).close(0.05)
    server.script.clear()
    monkeypatch.setenv(f"MP_{vendor.upper()}_WRITE_KEY", "key")
    monkeypatch.setenv(f"MP_{vendor.upper()}_BASE_URL", NOWHERE)
    (row,) = rows(mp("drain", "--timeout", "20"))
    assert (row["delivered"], row["pending"]) == (3, 0)
    assert server.record.order == [f"{vendor}-key-{number}" for number in range(3)]
    assert rows(mp("ls"))["files"] == []


@pytest.mark.slow
def test_drain_chooses_the_key_that_the_messages_were_tracked_with(mp, spool, server, monkeypatch):
    """With a wrong key nothing is sent, and the others are."""
    url = f"{server.url}/cio"
    server.script[:] = [KINDS["503 own"]] * 50
    for vendor, key in (("customerio", "a"), ("customerio", "b"), ("hightouch", "c")):
        fill_cdp(spool, url, vendor, key).close(0.05)
    fill(spool, server.url).close(0.05)
    server.script.clear()
    monkeypatch.setenv("MP_CUSTOMERIO_WRITE_KEY", "a")
    result = mp("drain", "--write-key", "c", "--timeout", "20")
    assert result.exit_code == ExitCode.PARTIAL
    found = json.loads(result.stdout)
    assert sorted(row["delivered"] for row in found) == [0, 3, 3, 3]
    assert [row["pending"] for row in found if not row["delivered"]] == [None]
    assert "MP_CUSTOMERIO_WRITE_KEY" in result.stderr
    (path,) = [each["file"] for each in rows(mp("ls"))["files"]]
    (row,) = rows(mp("drain", "--write-key", "b", "--timeout", "20"))
    assert (row["delivered"], row["pending"]) == (3, 0)
    assert not Path(path).exists()
    assert set(server.record.applied.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixpanel", "customerio"])
def test_drain_sends_the_files_of_all_ended_processes(mp, spool, server, kind, monkeypatch):
    """One after the other, and leaves that of a living one alone."""
    server.script[:] = [KINDS["503 own"]] * 200
    make = {"mixpanel": fill, "customerio": fill_cdp}[kind]
    url = server.url if kind == "mixpanel" else f"{server.url}/cio"
    clients = [make(spool, url) for _ in range(5)]
    for client in clients[1:]:
        client.close(0.05)
    server.script[:] = []
    monkeypatch.setenv("MP_CUSTOMERIO_WRITE_KEY", "key")
    (row,) = rows(mp("drain", "--timeout", "30"))
    assert (row["delivered"], row["pending"]) == (12, 0)
    (left,) = rows(mp("ls"))["files"]
    assert (left["state"], sum(left["messages"].values())) == ("in use", 3)
    assert clients[0].health().pending == 3
    clients[0].close(0.05)


def test_drain_says_which_program_can_send_to_an_unknown_vendor(mp, spool):
    """A dialect of your own has no name that `mp` knows."""
    fill_cdp(spool, NOWHERE).close(0.05)
    (description,) = spool.rglob("destination.json")
    description.write_text('{"service": "acme", "origin": "https://acme.example"}')
    result = mp("drain", "--timeout", "1")
    assert result.exit_code == ExitCode.PARTIAL
    assert "needs a client of acme" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_a_cdp_file_is_listed_exported_retried_and_purged_like_any_other(
    mp, spool, server, monkeypatch
):
    """A message that comes back keeps its kind and its id."""
    url = f"{server.url}/cio"
    client = fill_cdp(spool, url)
    (found,) = rows(mp("ls"))["files"]
    assert (found["service"], found["state"], found["messages"]) == (
        "customerio", "in use", {"batch": 3}
    )  # fmt: skip
    for command in ("export", "retry", "purge --all --force"):
        result = mp(*command.split())
        assert "in use by a running process" in " ".join(result.stderr.split())
    server.script[:] = [KINDS["503 own"]] * 10
    client.close(0.05)
    server.script[:] = [KINDS["400"]] * 10
    lines = [json.loads(line) for line in mp("export", "--format", "jsonl").stdout.splitlines()]
    assert [(each["service"], each["endpoint"]) for each in lines] == [("customerio", "batch")] * 3
    ids = [each["message"]["messageId"] for each in lines]
    monkeypatch.setenv("MP_CUSTOMERIO_WRITE_KEY", "key")
    assert mp("drain", "--timeout", "20").exit_code == ExitCode.PARTIAL
    server.script.clear()
    dead = [
        json.loads(line) for line in mp("export", "--dead", "--format", "jsonl").stdout.splitlines()
    ]
    assert [(each["message"]["messageId"], each["reason"]) for each in dead] == [
        (id_, "rejected") for id_ in ids
    ]
    assert rows(mp("stats"))["destinations"][0]["dead"] == 3
    assert rows(mp("retry")) == [{"reason": "rejected", "messages": 3}]
    assert rows(mp("drain", "--timeout", "20"))[0]["delivered"] == 3
    assert list(server.record.keys.values()) == [{id_} for id_ in ids]
    fill_cdp(spool, NOWHERE).close(0.05)
    assert rows(mp("purge", "--all", "--force"))["waiting"] == 3
    assert rows(mp("ls"))["files"] == []


def test_ls_shows_files_of_a_newer_version(mp, spool):
    """Which no command of this version touches."""
    fill_cdp(spool, NOWHERE).close(0.05)
    (path,) = spool.rglob("*.db")
    newer = path.with_name(path.name.replace(".v1.", ".v2."))
    newer.write_bytes(b"future")
    states = [each["state"] for each in rows(mp("ls"))["files"]]
    assert sorted(states) == ["newer", "waiting"]
    rows(mp("purge", "--all", "--force"))
    assert newer.read_bytes() == b"future"


def test_other_commands_leave_the_spool_of_programs_alone(mp, spool, server, monkeypatch, tmp_path):
    """`mp cdp` with MP_SPOOL set neither writes to it, nor sends and counts what is in it."""
    url = f"{server.url}/cio"
    server.script[:] = [KINDS["503 own"]] * 20
    fill_cdp(spool, url).close(0.05)
    server.script.clear()
    monkeypatch.setenv("MP_SPOOL", str(spool))
    monkeypatch.setenv("MP_CUSTOMERIO_WRITE_KEY", "key")
    monkeypatch.setenv("MP_CDP_BASE_URL", url)
    file = tmp_path / "rows.ndjson"
    file.write_text('{"type": "track", "userId": "u", "event": "E", "properties": {"m": "own"}}\n')
    reset([])
    result = CliRunner().invoke(app, ["cdp", "batch", str(file)], env={"NO_COLOR": "1"})
    assert result.exit_code == ExitCode.OK, result.output
    assert json.loads(result.stdout)["delivered"] == 1
    assert server.record.order == ["own"]
    (found,) = rows(mp("ls"))["files"]
    assert (found["state"], found["messages"]) == ("waiting", {"batch": 3})


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


@pytest.mark.slow
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
