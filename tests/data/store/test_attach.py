"""Files and other databases that SQL can join with, without access to the file system."""

import json
import os
import sys
import threading
import time

import duckdb
import pytest

from mixpanel.data import AsyncWorkspace, Credentials, Workspace
from mixpanel.data._fetch.plan import Filters
from mixpanel.data.exceptions import (
    ConfigError,
    DatabaseLockedError,
    DatabaseNotFoundError,
    MixpanelDataError,
    SQLError,
    UnsafeSQLError,
)
from mixpanel.data.store import Database
from tests.cli.cli_data import fetched

JOIN = "SELECT price FROM events JOIN plans USING (plan)"
PLANS = "plan,code,price\nsolo,0123,0\nteam,9,12.5\n"


@pytest.fixture
def path(tmp_path):
    """Make a database with one event, and files of plans beside it."""
    with Database.open(tmp_path / "us.db") as db:
        db.sql_rows("CREATE TABLE events AS SELECT 'team' AS plan, 1 AS n", write=True)
    (tmp_path / "plans.csv").write_text(PLANS)
    (tmp_path / "plans.json").write_text(
        json.dumps([{"plan": "solo", "price": 0}, {"plan": "team", "price": 12.5}])
    )
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM '{tmp_path}/plans.csv') TO '{tmp_path}/plans.parquet'")
    return tmp_path / "us.db"


def released(database):
    """Wait until the file of a database is closed, and return the database."""
    end = time.monotonic() + 30
    while database._connection is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return database


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
@pytest.mark.parametrize("face", [Workspace, AsyncWorkspace])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_is_a_table_for_joins(path, kind, face, read_only):
    """Also after the database file was closed meanwhile; nothing is left at the end."""
    before = sorted(path.parent.iterdir())
    ws = face.open(path, read_only=read_only)
    attached = getattr(ws, f"attach_{kind}")("plans", path.with_name(f"plans.{kind}"))
    assert ("plans", kind, 2) == (attached.name, attached.kind, attached.rows)
    assert 12.5 == ws.sql_scalar(JOIN)
    released(ws.database)
    assert 12.5 == ws.sql_scalar(JOIN)
    assert [attached] == ws.attached()
    assert ["events"] == [table.name for table in ws.tables()]
    ws.database.close()
    assert before == sorted(path.parent.iterdir())


@pytest.mark.slow
def test_a_database_in_memory_has_files_too(path):
    """They are found by the connection that is handed out, as well."""
    with Database.open() as db:
        db.attach_csv("plans", path.with_name("plans.csv"))
        assert 2 == db.sql_scalar("SELECT count(*) FROM plans")
        assert [(2,)] == db.connection.execute("SELECT count(*) FROM plans").fetchall()
        db.attach_csv("again", path.with_name("plans.csv"))
        assert [(2,)] == db.connection.execute("SELECT count(*) FROM again").fetchall()
        db.detach("again")
        with pytest.raises(duckdb.CatalogException):
            db.connection.execute("FROM again")


@pytest.mark.slow
def test_codes_stay_text_and_ids_keep_their_digits(path):
    """0123 is not 123, and 2**64 is not rounded."""
    with Database.open(path) as db:
        db.attach_csv("plans", path.with_name("plans.csv"))
        assert [("0123",), ("9",)] == db.sql_rows("SELECT code FROM plans ORDER BY 1").rows
        file = path.with_name("ids.json")
        file.write_text('{"id": 18446744073709551616, "b": 1.5}\n{"id": 7, "b": 1}\n')
        db.attach_json("ids", file)
        assert 2**64 + 7 == db.sql_scalar("SELECT sum(id) FROM ids")
        assert "DOUBLE" == db.sql_scalar("SELECT typeof(b) FROM ids")
        file.write_text('{"id": 18446744073709551616.5}\n{"id": 12345678901234567890}\n')
        db.attach_json("ids", file)
        assert "12345678901234567890" == db.sql_scalar("SELECT max(id) FROM ids WHERE id < '15'")


@pytest.mark.slow
def test_attaching_again_reads_the_changes(path):
    """Until then, rows are those at the time of attaching; detaching frees the name."""
    csv = path.with_name("plans.csv")
    with Database.open(path) as db:
        db.attach_csv("plans", csv)
        csv.write_text(PLANS + "free,1,0\n")
        assert 2 == db.sql_scalar("SELECT count(*) FROM plans")
        assert 3 == db.attach_csv("PLANS", csv).rows == db.sql_scalar("SELECT count(*) FROM plans")
        assert ["PLANS"] == [each.name for each in db.attached()]
        db.detach("plans")
        with pytest.raises(SQLError, match="plans does not exist"):
            db.sql_rows("FROM plans")
        with pytest.raises(ConfigError, match="nothing is attached as 'plans'; attached are: none"):
            db.detach("plans")


@pytest.mark.slow
def test_sql_reads_no_file_by_its_path(path):
    """Neither the file that is attached, nor its copy, nor others."""
    with Database.open(path) as db:
        db.attach_csv("plans", path.with_name("plans.csv"))
        copies = [str(each) for each in db.parts.rglob("*.db")]
        assert copies
        for file in (path.with_name("plans.csv"), *copies):
            for query in (f"FROM read_csv('{file}')", f"FROM '{file}'", f"ATTACH '{file}'"):
                for write in (False, True):
                    with pytest.raises(SQLError):
                        db.sql_rows(query, write=write)
        with pytest.raises(SQLError, match=r"plans is not an? table"):
            db.sql_rows("INSERT INTO plans VALUES ('x', 'y', 1)", write=True)


@pytest.mark.slow
def test_a_table_is_never_hidden_by_a_file(path):
    """Neither one that exists, nor one that is created or fetched later."""
    csv = path.with_name("plans.csv")
    with Database.open(path) as db:
        with pytest.raises(ConfigError, match="events is a table of the database"):
            db.attach_csv("events", csv)
        db.attach_csv("plans", csv)
        with pytest.raises(ConfigError, match="a file is attached as plans"):
            db.begin_profiles("plans", filters=Filters(), mode="new")
        db.sql_rows("CREATE TABLE main.Plans AS SELECT 1 AS i", write=True)
        with pytest.raises(ConfigError, match="Plans is both a table and an attached file"):
            db.sql_rows("FROM plans")
        db.detach("plans")
        assert [(1,)] == db.sql_rows("FROM plans").rows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "a b", "_x", "a.b", 'x"; DROP', "é", None, "a" * 129])
def test_names_are_checked(path, name):
    """They are those of tables."""
    with Database.open(path) as db:
        with pytest.raises(ConfigError, match="not a valid table name"):
            db.attach_csv(name, path.with_name("plans.csv"))
        with pytest.raises(ConfigError, match="not a valid table name"):
            db.attach(path.with_name("plans.csv"), as_=name)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("a.csv", "plan,Plan\n1,2\n", "'Plan', 'plan' differ only in case"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, the first line has 2"),
        ("a.csv", "", "the first line is empty"),
        ("a.csv", 'a,b\n"1,2\n', "a quote is not closed"),
        ("a.csv", b"a,b\n\xff,2\n", "not UTF-8"),
        pytest.param(
            "a.csv",
            b"a,b\n1," + b"x" * 20_000_000 + b"\n",
            "more than 16,000,000 bytes",
            marks=pytest.mark.slow,
        ),
        ("a.json", '{"plan": 1, "Plan": 2}\n', "'Plan', 'plan' differ only in case"),
        ("a.json", '{"a": 1}\n{"a"\n', "alformed JSON"),
        ("a.json", "[1, 2]", "no JSON objects"),
        ("a.json", "", "no JSON objects"),
        ("a.json", b'{"a": "' + b"x" * 20_000_000 + b'"}', "more than 16,000,000 bytes"),
        ("a.parquet", "PAR1, but nothing more", "a.parquet: "),
        ("a.parquet", "", "a.parquet: "),
    ],
)
def test_hostile_files_are_refused_with_a_reason(path, file, content, reason):
    """The error is typed, names the file, and leaves nothing attached."""
    target = path.with_name(file)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    with Database.open(path) as db:
        with pytest.raises(ConfigError, match=reason) as caught:
            getattr(db, f"attach_{file[2:]}")("a", target)
        assert file in str(caught.value)
        assert len(str(caught.value)) < 400
        assert [] == db.attached()
        assert [] == [*db.parts.rglob("*lookup*")]
        assert 1 == db.sql_scalar("SELECT count(*) FROM events")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_what_is_no_file_is_refused(path, kind):
    """A missing file, a directory and a FIFO, without waiting for a writer of it."""
    with Database.open(path) as db:
        attach = getattr(db, f"attach_{kind}")
        with pytest.raises(MixpanelDataError, match="No such file") as caught:
            attach("a", path.with_name("none"))
        assert "FILE_NOT_FOUND" == caught.value.code
        with pytest.raises(MixpanelDataError, match="is a directory: name one file"):
            attach("a", path.parent)
        if sys.platform != "win32":
            os.mkfifo(path.with_name("pipe"))
            with pytest.raises(MixpanelDataError, match="not a regular file"):
                attach("a", path.with_name("pipe"))


@pytest.mark.slow
def test_paths_with_characters_of_patterns_are_taken_as_they_are(path):
    """`*` stands for itself."""
    folder = path.with_name("it's [a] *")
    folder.mkdir()
    path.with_name("plans.csv").rename(folder / "p*.csv")
    (folder / "p1.csv").write_text("a\n1\n2\n3\n")
    with Database.open(path) as db:
        assert 2 == db.attach_csv("plans", folder / "p*.csv").rows


@pytest.mark.slow
def test_two_handles_of_a_file_have_attachments_of_their_own(path):
    """Closing one leaves the other's."""
    with Database.open(path) as one:
        with Database.open(path) as two:
            one.attach_csv("plans", path.with_name("plans.csv"))
            two.attach_json("plans", path.with_name("plans.json"))
            assert 3 == one.sql_scalar("SELECT count(*) FROM (DESCRIBE plans)")
            assert 2 == two.sql_scalar("SELECT count(*) FROM (DESCRIBE plans)")
        assert 12.5 == one.sql_scalar(JOIN)


# ---- other databases ----------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path):
    """Make the database of another project."""
    with Database.open(tmp_path / "eu.db") as db:
        db.sql_rows("CREATE TABLE events AS SELECT 'solo' AS plan, 2 AS n", write=True)
    return tmp_path / "eu.db"


@pytest.mark.slow
@pytest.mark.parametrize("face", [Workspace, AsyncWorkspace])
def test_tables_of_another_database_can_be_joined(path, other, face):
    """Both files stay free for other processes between statements, and the other is only read."""
    ws = face.open(path, read_only=False)
    attached = ws.attach(other, as_="eu")
    assert ("eu", "database", other) == (attached.name, attached.kind, attached.path)
    query = "SELECT sum(n) FROM (FROM events UNION ALL FROM eu.events)"
    assert 3 == ws.sql_scalar(query)
    released(ws.database)
    with Database.open(other) as writer:
        writer.sql_rows("INSERT INTO events VALUES ('team', 10)", write=True)
        assert 13 == ws.sql_scalar(query)
    assert ["events"] == [table.name for table in ws.tables()]
    with pytest.raises(UnsafeSQLError, match="workspace of its own to change it"):
        ws.sql_rows("DELETE FROM eu.events", write=True)
    ws.attach_csv("plans", path.with_name("plans.csv"))
    assert 12.5 == ws.sql_scalar("SELECT max(price) FROM eu.events JOIN plans USING (plan)")
    ws.detach("eu")
    with pytest.raises(SQLError):
        ws.sql_rows("FROM eu.events")
    ws.database.close()


@pytest.mark.slow
def test_another_database_that_cannot_be_attached_is_named(path, other):
    """Nothing is attached then, and the database goes on working."""
    with Database.open(path) as db:
        with pytest.raises(DatabaseNotFoundError, match=r"none\.db"):
            db.attach(path.with_name("none.db"), as_="eu")
        with pytest.raises(ConfigError, match=r"plans\.csv cannot be opened"):
            db.attach(path.with_name("plans.csv"), as_="eu")
        with pytest.raises(ConfigError, match="this database itself"):
            db.attach(path, as_="eu")
        for name in ("main", "temp", "us", "MEMORY"):
            with pytest.raises(ConfigError, match="is taken by another database or schema"):
                db.attach(other, as_=name)
        assert [] == db.attached()
        assert 1 == db.sql_scalar("SELECT count(*) FROM events")
        _ = db.connection
        with pytest.raises(ConfigError, match="`connection` was used, has to stay open"):
            db.attach(other, as_="eu")
    with Database.open() as db, pytest.raises(ConfigError, match="in memory"):
        db.attach(other, as_="eu")


@pytest.mark.slow
def test_external_access_attaches_at_any_time(path, other):
    """In memory, too."""
    for file in (None, path):
        with Database.open(file, external_access=True) as db:
            db.attach(other, as_="eu")
            assert 2 == db.sql_scalar("SELECT n FROM eu.events")
            db.detach("eu")
            db.attach(other, as_="eu")
            assert 2 == db.sql_scalar("SELECT n FROM eu.events")


@pytest.mark.slow
def test_a_database_in_use_is_waited_for(path, other):
    """First for another handle of this process, then, if that goes on, there is an error."""
    with Database.open(path) as db, Database.open(other) as writer:
        db.attach(other, as_="eu")
        released(db)
        with writer.sql_stream("FROM events"):
            timer = threading.Timer(0.5, lambda: None)
            timer.start()
            with pytest.raises(
                DatabaseLockedError, match=f"eu.db is open in process {os.getpid()}"
            ):
                db.sql_scalar("SELECT n FROM eu.events")
            timer.join()
        assert 2 == db.sql_scalar("SELECT n FROM eu.events")
        assert 2 == writer.sql_scalar("SELECT n FROM events")


# ---- projects -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_has_the_data_of_one_project(tmp_path):
    """Another project's workspace is refused, before anything is fetched; readers are not."""
    path = tmp_path / "shop.db"
    with Database.open(path, project_id="42") as db:
        db.begin_profiles("users", filters=Filters(), mode="new").finish()
    reason = "has data of the project 42, not of 77: use one file for each project, and attach"
    for read_only in (False, True):
        with pytest.raises(ConfigError, match=reason):
            Database.open(path, project_id="77", read_only=read_only)
    other = Credentials(username="u", secret="s", project_id="77", region="us")
    with Workspace(credentials=other, path=path) as ws, pytest.raises(ConfigError, match=reason):
        ws.tables()
    Database.open(path, project_id="42").close()
    with Workspace.open(path) as ws:
        assert ["users"] == [table.name for table in ws.tables()]


@pytest.mark.slow
def test_two_projects_cannot_both_fill_a_new_file(tmp_path):
    """The first fetch decides, although both had opened it before."""
    path = tmp_path / "shop.db"
    with Database.open(path, project_id="42") as one, Database.open(path, project_id="77") as two:
        one.begin_profiles("users", filters=Filters(), mode="new").finish()
        with pytest.raises(ConfigError, match="the project 42, not of 77"):
            two.begin_profiles("more", filters=Filters(), mode="new")


@pytest.mark.slow
def test_files_of_earlier_versions_have_no_project_yet(tmp_path):
    """Reading works; the next fetch records it."""
    path = tmp_path / "old.db"
    with Database.open(path) as db:
        db.sql_rows("ALTER TABLE _metadata DROP COLUMN project_id", write=True)
    with Database.open(path, read_only=True, project_id="42") as db:
        assert [] == db.tables()
    with Database.open(path, project_id="42") as db:
        db.begin_profiles("users", filters=Filters(), mode="new").finish()
    with pytest.raises(ConfigError, match="the project 42"):
        Database.open(path, project_id="77")


# ---- the command line ---------------------------------------------------------------------------


@pytest.mark.slow
def test_mp_attaches_files_to_a_query(tmp_path):
    """By the ends of their names; what cannot be attached is an invalid argument."""
    mp = fetched(tmp_path)
    (tmp_path / "plans.csv").write_text(PLANS)
    (tmp_path / "latin.csv").write_bytes(b"a,b\n\xff,2\n")
    with Database.open(tmp_path / "eu.db") as db:
        db.sql_rows("CREATE TABLE events AS SELECT 5 AS n", write=True)
    query = "SELECT max(price) FROM events JOIN plans ON plan = (properties->>'$.plan')"
    attach = ("--attach", f"plans={tmp_path}/plans.csv", "--attach", f"eu={tmp_path}/eu.db")
    assert "12.5\n" == mp("query", "sql", *attach, "-s", query).stdout
    assert "5\n" == mp("query", "sql", *attach, "-s", "SELECT n FROM eu.events").stdout
    out = mp("export", "csv", "-", *attach, "--sql", "SELECT code FROM plans ORDER BY 1").stdout
    assert ["code", "0123", "9"] == out.splitlines()
    for given, code, reason in (
        ("plans.csv", 3, "write NAME=FILE, as in plans=plans.csv"),
        ("a=plans.xlsx", 3, "must end in .csv, .tsv, .parquet"),
        (f"a={tmp_path}/none.csv", 4, "No such file"),
        (f"a b={tmp_path}/plans.csv", 3, "not a valid table name"),
        (f"a={tmp_path}/latin.csv", 3, "line 2 is not UTF-8; convert it first: iconv"),
    ):
        result = mp("query", "sql", "--attach", given, "SELECT 1")
        assert code == result.exit_code
        assert reason in " ".join(result.stderr.split())
