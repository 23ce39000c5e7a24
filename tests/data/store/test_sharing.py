"""Processes take turns with a database file: nobody holds it while it does nothing."""

import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import anyio
import duckdb
import pytest
from typer.testing import CliRunner

from mixpanel.cli.app import app
from mixpanel.data import Credentials, Workspace
from mixpanel.data._fetch.plan import Filters
from mixpanel.data._fetch.tasks import when_unlocked
from mixpanel.data.exceptions import ConfigError, DatabaseLockedError
from mixpanel.data.store import Database, connection
from mixpanel.emulator import Emulator
from tests.cli.cli_data import DAYS, environment, fill

pytestmark = pytest.mark.slow

DAY = date(2026, 1, 1)
FILTERS = Filters()
NOTEBOOK = """
import sys
from mixpanel.data import Workspace

ws = Workspace.open(sys.argv[1], read_only=False)
ws.sql_rows("CREATE OR REPLACE TABLE mine AS SELECT 1 AS i", write=True)
for line in sys.stdin:
    print(ws.sql_scalar(line), flush=True)
"""


@pytest.fixture
def path(tmp_path):
    """Make an empty database."""
    Database.open(tmp_path / "shop.db").close()
    return tmp_path / "shop.db"


@pytest.fixture
def notebook(path):
    """Start a process that keeps a workspace open, and return a function that runs SQL in it."""
    with subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def run(query):
            process.stdin.write(query + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield run
        process.communicate()


def wait_until(is_true):
    end = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_shell_reads_and_writes_while_a_notebook_is_open(path, notebook):
    """`mp inspect` and `mp query` run, and the notebook sees what they changed."""
    assert "1" == notebook("SELECT i FROM mine")
    with Emulator() as emu:
        environ = environment(emu.url, path.parent)

        def mp(*arguments):
            result = CliRunner().invoke(app, arguments, env=environ)
            assert 0 == result.exit_code, result.output
            return result.stdout

        assert ["mine"] == [one["name"] for one in json.loads(mp("inspect", "tables"))]
        mp("query", "sql", "--write", "INSERT INTO mine VALUES (41)")
        assert "42" == notebook("SELECT sum(i) FROM mine")
        fill(emu)
        mp("fetch", "events", *DAYS)
        assert "72" == notebook("SELECT count(*) FROM events")


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("changed", ["file", "log"])
def test_a_file_that_was_written_while_it_was_opened_is_opened_again(
    path, monkeypatch, read_only, changed
):
    """DuckDB 2.0 may have read its header before that: the last table would be missing, or lost."""
    connect, opened = duckdb.connect, []
    log = path.with_name(path.name + ".wal")

    def slow(*args, **kwargs):
        if not opened:
            os.utime(path) if changed == "file" else log.unlink()
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    if changed == "log":
        log.touch()
    monkeypatch.setattr(duckdb, "connect", slow)
    with Database.open(path, read_only=read_only) as database:
        assert 1 == database.sql_scalar("SELECT 1")
        stale, current = opened
        with pytest.raises(duckdb.ConnectionException):
            stale.execute("SELECT 1")
        current.execute("SELECT 1")


def test_a_program_may_end_while_its_file_is_closed(path):
    """A thread within DuckDB would abort the process as soon as the interpreter has ended."""
    program = """
import sys, time
from mixpanel.data.store import Database
database = Database.open(sys.argv[1])
database.sql_rows("CREATE TABLE t AS SELECT range AS i FROM range(100000)", write=True)
end = time.monotonic() + 30
while database._connection is not None and time.monotonic() < end:
    time.sleep(0.0005)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=False, timeout=60
    )
    assert (0, b"") == (done.returncode, done.stderr)
    with Database.open(path) as database:
        assert 100_000 == database.sql_scalar("SELECT count(*) FROM t")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_ends_and_leaves_the_file_to_its_parent(path):
    """DuckDB's threads exist in the parent only: a child that closed the file would wait."""
    program = """
import os, sys
from mixpanel.data.store import Database
database = Database.open(sys.argv[1])
database.sql_rows("CREATE TABLE t AS SELECT 1 AS i", write=True)
if child := os.fork():
    _, status = os.waitpid(child, 0)
    assert 1 == database.sql_scalar("SELECT i FROM t")
    sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(path)],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (0, b"") == (done.returncode, done.stderr)


def test_an_unused_file_is_closed_and_opened_again(path):
    """And keeps what was written."""
    with Database.open(path) as db:
        assert [1] * 20 == [db.sql_scalar("SELECT 1") for _ in range(20)]
        wait_until(lambda: db._connection is None)
        db.sql_rows("CREATE TABLE t AS SELECT 7 AS i", write=True)
        wait_until(lambda: db._connection is None)
        assert 7 == db.sql_scalar("SELECT i FROM t")
    assert ["shop.db"] == [one.name for one in path.parent.iterdir()]


def test_a_file_that_two_threads_open_at_once_is_closed_again(path, monkeypatch):
    """Whichever comes second uses the connection of the first, and is counted once."""
    with Database.open(path) as database:
        wait_until(lambda: database._connection is None)
        acquire, looks = database._acquire_if_connected, []

        def connected_by_another_thread(*, writes):
            found = acquire(writes=writes)
            if found is None and not looks:
                looks.append(1)
                database._connect()
            return found

        monkeypatch.setattr(database, "_acquire_if_connected", connected_by_another_thread)
        assert 1 == database.sql_scalar("SELECT 1")
        assert [1] == looks
        wait_until(lambda: database._connection is None)


READER = """
import sys
import duckdb

with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print("reads", flush=True)
    sys.stdin.readline()
"""


def test_a_read_does_not_wait_for_other_readers(path, tmp_path, monkeypatch):
    """Only a statement that writes needs the file for itself, and has it when they are gone."""
    with Database.open(path) as db:
        db.sql_rows("CREATE TABLE t AS SELECT 7 AS i", write=True)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert "reads\n" == reader.stdout.readline()
        with Database.open(path) as db:
            assert (7, ["t"]) == (
                db.sql_scalar("SELECT i FROM t"), [table.name for table in db.tables()]
            )  # fmt: skip
            assert b"i\n7\n" == Path(db.export_csv("t", tmp_path / "t.csv")[0]).read_bytes()
            with monkeypatch.context() as patched, db.sql_stream("FROM t") as rows:
                patched.setattr(connection, "LOCK_TIMEOUT", 0.1)
                assert [[(7,)]] == list(rows.batches)
                with pytest.raises(DatabaseLockedError):
                    db.sql_rows("DELETE FROM t", write=True)
            assert 7 == db.sql_scalar("SELECT i FROM t")
            reader.communicate("")
            db.sql_rows("UPDATE t SET i = 8", write=True)
            assert 8 == db.sql_scalar("SELECT i FROM t")
            with Database.open(path) as other:
                assert 8 == other.sql_scalar("SELECT i FROM t")
                other.sql_rows("UPDATE t SET i = 9", write=True)
            assert 9 == db.sql_scalar("SELECT i FROM t")


def test_a_connection_that_was_handed_out_stays_open(path):
    """DuckDB's own objects must not be closed under their user."""
    with Database.open(path) as db:
        relation = db.connection.sql("SELECT 1 AS i")
        time.sleep(connection.LINGER * 2)
        assert [(1,)] == relation.fetchall()
        assert db._connection is db.connection


def test_what_sql_attached_stays(path, tmp_path):
    """With external access, closing the file would forget it."""
    with Database.open(path, external_access=True) as db:
        db.sql_rows(f"ATTACH '{tmp_path / 'other.db'}' AS other", write=True)
        time.sleep(connection.LINGER * 2)
        db.sql_rows("CREATE TABLE other.t AS SELECT 3 AS i", write=True)
        assert 3 == db.sql_scalar("SELECT i FROM other.t")


def test_the_file_is_closed_after_a_statement_that_fails(path):
    """Also after one of a load."""
    with Database.open(path) as db:
        with pytest.raises(Exception, match="nothing"):
            db.sql_rows("SELECT * FROM nothing")
        load = db.begin_events("events", filters=FILTERS, mode="new", days=[DAY])
        with pytest.raises(AttributeError):
            load.stage([None])
        load.stop()
        wait_until(lambda: db._connection is None)


def test_a_fetch_lets_others_read_between_its_steps(tmp_path):
    """Another process sees the table of before, complete."""
    seen = []
    robot = Credentials(username="robot", secret="s3cret", project_id="42")
    path = tmp_path / "shop.db"
    script = (
        "import sys; from mixpanel.data.store import Database\n"
        "with Database.open(sys.argv[1], read_only=True) as db:\n"
        "    print(db.sql_scalar('SELECT count(*) FROM events'))"
    )

    def read(_progress):
        if not seen:
            command = [sys.executable, "-c", script, str(path)]
            seen.append(subprocess.run(command, capture_output=True, text=True, check=False))

    with Emulator() as emu:
        fill(emu)
        with Workspace(path=path, credentials=robot, base_url=emu.url) as ws:
            ws.fetch_events("events", from_date=DAY, to_date=DAY)
            ws.fetch_events(
                "events", from_date=DAY, to_date="2026-01-03", replace=True, on_batch_complete=read
            )
            assert 72 == ws.sql_scalar("SELECT count(*) FROM events")
    assert ("24\n", "") == (seen[0].stdout, seen[0].stderr)


LOADER = """
import sys
from datetime import date
from mixpanel.data._fetch.plan import Filters
from mixpanel.data.store import Database

with Database.open(sys.argv[1]) as db:
    load = db.begin_events("events", filters=Filters(), mode="new", days=[date(2026, 1, 1)])
    print("loads", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_fetch_into_one_table(path):
    """The second is refused, as is dropping the table; other tables are free."""
    with subprocess.Popen(
        [sys.executable, "-c", LOADER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as loader:  # fmt: skip
        assert "loads\n" == loader.stdout.readline()
        with Database.open(path) as db:
            with pytest.raises(ConfigError, match="into events is running in another process"):
                db.begin_events("Events", filters=FILTERS, mode="new", days=[DAY])
            with pytest.raises(ConfigError, match="is running in another process"):
                db.drop("events")
            db.begin_events("others", filters=FILTERS, mode="new", days=[DAY]).abandon()
            loader.kill()
            loader.communicate()
            db.begin_events("events", filters=FILTERS, mode="new", days=[DAY]).abandon()


def test_a_fetch_waits_while_another_process_has_the_file(caplog):
    """It says once for what, and then goes on."""
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) < 3:
            raise DatabaseLockedError("shop.db", 7)
        return "done"

    async def body():
        return await when_unlocked(work)

    assert "done" == anyio.run(body)
    [record] = caplog.records
    assert "the fetch waits: shop.db is open in process 7" in record.getMessage()
