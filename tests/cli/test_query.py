"""`mp query sql`: SQL on the local database."""

import json
import os
import signal
import subprocess
import sys

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.data.store import Database
from tests.cli.cli_data import fetched

COUNTS = "SELECT event_name, count(*) AS n FROM events GROUP BY ALL ORDER BY ALL"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Keep a database of three days of orders."""
    folder = tmp_path_factory.mktemp("query")
    return folder, fetched(folder)


@pytest.fixture
def mp(shop):
    """Ask that database, without any credentials."""
    return shop[1]


@pytest.mark.slow
def test_rows_are_objects_in_json(mp):
    """A query needs no credentials."""
    result = mp("query", "sql", COUNTS)
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    expected = [{"event_name": n, "n": 24} for n in ("Order Paid", "Order Shipped", "Paid, late")]
    assert expected == json.loads(result.stdout)


@pytest.mark.slow
def test_every_format_shows_the_same_rows(mp):
    """JSON, lines, CSV and a table."""
    assert 3 == len(mp("query", "sql", COUNTS, "-f", "jsonl").stdout.splitlines())
    text = 'event_name,n\nOrder Paid,24\nOrder Shipped,24\n"Paid, late",24\n'
    assert text == mp("query", "sql", COUNTS, "-f", "csv").stdout
    table = mp("query", "sql", COUNTS, "-f", "table").stdout.splitlines()
    assert ["event_name", "n"] == table[0].split()
    assert "24\n" == mp("query", "sql", COUNTS, "--jq", ".[0].n").stdout


def test_a_property_is_read_by_its_path(mp):
    """As the help says."""
    query = (
        "SELECT properties->>'$.plan' AS plan, count(*) AS n FROM events GROUP BY ALL ORDER BY 1"
    )
    rows = json.loads(mp("query", "sql", query).stdout)
    assert [{"plan": "solo", "n": 36}, {"plan": "team", "n": 36}] == rows


def test_repeated_column_names_are_numbered(mp):
    """So that none hides another."""
    rows = json.loads(mp("query", "sql", "SELECT 1 AS n, 2 AS n, 3 AS n").stdout)
    assert [{"n": 1, "n_2": 2, "n_3": 3}] == rows


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("more", [[], ["--write"]])
def test_a_name_that_occurs_once_is_kept(mp, form, more):
    """A repeated one does not take it, before or after."""
    query = "SELECT 1 AS n_2, 2 AS n, 3 AS n, 4 AS n_3, 5 AS n_2"
    found = mp("query", "sql", query, "-f", form, *more).stdout
    expected = {"n_2": 1, "n": 2, "n_4": 3, "n_3": 4, "n_2_2": 5}
    if form == "csv":
        assert ",".join(expected) == found.splitlines()[0]
    else:
        assert [expected] == json.loads(found)


@pytest.mark.slow
def test_csv_without_rows_has_a_header(mp):
    """And a table without rows is a message on stderr."""
    assert "a,b\n" == mp("query", "sql", "SELECT 1 a, 2 b WHERE false", "-f", "csv").stdout
    assert "[]\n" == mp("query", "sql", "SELECT 1 a WHERE false").stdout
    assert "no rows\n" == mp("query", "sql", "SELECT 1 a WHERE false", "-f", "table").stderr


@pytest.mark.slow
def test_a_scalar_is_one_value(mp):
    """Bare in every format, for shell variables and jq."""
    count = "SELECT count(*) FROM events"
    for form in ("json", "jsonl", "csv", "table"):
        assert "72\n" == mp("query", "sql", "-s", count, "-f", form).stdout, form
    assert "72\n" == mp("query", "sql", "--scalar", count, "-f", "plain").stdout
    nothing = mp("query", "sql", "-s", "SELECT 1 WHERE false")
    assert "null\n" == nothing.stdout


@pytest.mark.slow
def test_sql_is_read_from_a_file_or_stdin(mp, tmp_path):
    """`-` is stdin."""
    file = tmp_path / "count.sql"
    file.write_text("-- how many\nSELECT count(*) AS n\nFROM events;\n")
    assert [{"n": 72}] == json.loads(mp("query", "sql", "-F", file).stdout)
    from_stdin = mp("query", "sql", "--file", "-", given="SELECT 1 AS one")
    assert [{"one": 1}] == json.loads(from_stdin.stdout)


def test_a_missing_query_is_a_usage_error(mp, tmp_path):
    """So is an empty one, and two; a missing file is not found."""
    for arguments in ([], [" "], ["SELECT 1", "-F", tmp_path / "a.sql"]):
        assert ExitCode.USAGE == mp("query", "sql", *arguments).exit_code, arguments
    missing = mp("query", "sql", "-F", tmp_path / "none.sql")
    assert (ExitCode.NOT_FOUND, "") == (missing.exit_code, missing.stdout)
    assert missing.stderr.endswith("none.sql: No such file or directory\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "option"),
    [
        ("DELETE FROM events", "Pass --write to"),
        ("CREATE TABLE mine AS SELECT 1", "Pass --write to"),
        ("SELECT * FROM read_csv('/etc/passwd')", "with --external to"),
    ],
)
def test_sql_is_read_only_and_stays_in_the_database(mp, query, option):
    """The error names the option that allows more."""
    result = mp("query", "sql", query)
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert option in result.stderr
    assert "72\n" == mp("query", "sql", "-s", "SELECT count(*) FROM events", "-f", "plain").stdout


@pytest.mark.slow
def test_write_allows_changes(mp, tmp_path):
    """A table that was created stays."""
    assert ExitCode.OK == mp("query", "sql", "--write", "CREATE TABLE mine AS SELECT 7 n").exit_code
    assert [{"n": 7}] == json.loads(mp("query", "sql", "FROM mine").stdout)
    assert ExitCode.OK == mp("query", "sql", "--write", "DROP TABLE mine").exit_code
    assert ExitCode.USAGE == mp("query", "sql", "FROM mine").exit_code


def test_external_allows_files(mp, tmp_path):
    """DuckDB reads what it can."""
    file = tmp_path / "plans.csv"
    file.write_text("plan,price\nteam,12\n")
    query = f"SELECT price FROM read_csv('{file}')"
    assert [{"price": 12}] == json.loads(mp("query", "sql", "--external", query).stdout)


@pytest.mark.slow
def test_an_sql_error_is_a_usage_error(mp):
    """Nothing is on stdout, and the error may be JSON."""
    result = mp("query", "sql", "SELECT nonsense FROM events")
    assert (ExitCode.USAGE, "") == (result.exit_code, result.stdout)
    assert "nonsense" in result.stderr
    result = mp("--error-format", "json", "query", "sql", "SELEC")
    assert "SQL_ERROR" == json.loads(result.stderr)["code"]


def test_a_missing_database_is_not_found(mp, tmp_path):
    """The error says how to create one, and none is created."""
    result = mp("query", "sql", "SELECT 1", "--db", tmp_path / "none.db")
    assert (ExitCode.NOT_FOUND, "") == (result.exit_code, result.stdout)
    assert "mp fetch events" in result.stderr
    assert [] == list(tmp_path.iterdir())


def test_the_database_is_that_of_the_account(mp, tmp_path):
    """Without `--db` and without an account, the error says what is missing."""
    nowhere = mp("query", "sql", "SELECT 1", MP_DB=None)
    assert ExitCode.USAGE == nowhere.exit_code
    assert "or choose the database with --db FILE or MP_DB\n" in nowhere.stderr
    account = {"MP_USERNAME": "r", "MP_SECRET": "x", "MP_PROJECT_ID": "7", "HOME": str(tmp_path)}
    result = mp("query", "sql", "SELECT 1", MP_DB=None, **account)
    assert ExitCode.NOT_FOUND == result.exit_code
    assert str(tmp_path / ".mp" / "data" / "7.db") in result.stderr


def test_a_tilde_in_a_path_is_expanded(shop):
    """Also if the shell has not done it."""
    folder, mp = shop
    result = mp("query", "sql", "-s", "SELECT 1", "--db", "~/shop.db", HOME=str(folder))
    assert ExitCode.OK == result.exit_code, result.stderr


@pytest.mark.slow
def test_several_processes_can_read_at_once(shop, monkeypatch):
    """A writer is refused meanwhile."""
    monkeypatch.setattr("mixpanel.data.store.connection.LOCK_TIMEOUT", 0.0)
    folder, mp = shop
    code = (
        "import sys\nfrom mixpanel.data.store import Database\n"
        f"held = Database.open({str(folder / 'shop.db')!r}, read_only=True)\n"
        "held.connection\nprint('open', flush=True)\nsys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert "open\n" == other.stdout.readline()
        assert ExitCode.OK == mp("query", "sql", COUNTS).exit_code
        writing = mp("query", "sql", "--write", "CREATE TABLE mine AS SELECT 1")
        other.stdin.close()
    assert ExitCode.ERROR == writing.exit_code
    assert f"process {other.pid}" in writing.stderr


# Rows as they come


@pytest.mark.slow
def test_properties_are_nested_in_json(mp):
    """As `mp inspect sample` shows them, whether DuckDB or Python writes the rows."""
    query = "SELECT properties FROM events ORDER BY insert_id"
    written = json.loads(mp("query", "sql", query).stdout)
    assert ("solo", 0) == tuple(written[0]["properties"][name] for name in ("plan", "amount"))
    by_python = mp("query", "sql", query, "--write")
    assert (written, "") == (json.loads(by_python.stdout), by_python.stderr)
    first = json.loads(mp("query", "sql", query, "-f", "jsonl").stdout.splitlines()[0])
    assert written[0] == first


TYPES = """SELECT 1::BIGINT AS i, sum(9) AS large, 1.25::DECIMAL(5,2) AS d, 'nan'::DOUBLE AS nan,
    0.1::DOUBLE AS f, TIMESTAMP '2026-01-01 10:00:00' AS whole,
    TIMESTAMP '2026-01-01 10:00:00.25' AS part, DATE '2026-01-01' AS day, true AS yes,
    NULL AS none, 'é "x"' AS text, '{"a": [1]}'::JSON AS json"""
NESTED = """SELECT [1, NULL] AS i, ['nan'::DOUBLE, 1e22] AS f, NULL::DOUBLE[] AS none,
    [{'a': NULL::DOUBLE, 'b"': ['x']}, NULL] AS s, NULL::STRUCT(a DOUBLE) AS no_struct,
    {'t': TIMESTAMP '2026-01-01', 'z': TIMESTAMPTZ '2026-01-01 10:00:00.25+02'} AS times,
    {'j': '{"a": [1]}'::JSON, 'd': [DATE '2026-01-01']} AS j, [[5::DECIMAL(38,2)]] AS whole,
    1234567890123456789.12::DECIMAL(38,2) AS long, 1.5::DECIMAL(38,4) AS short, 'a'::ENUM('a') AS e,
    TIMESTAMP_NS '2026-01-01 10:00:00.5' AS part, TIMESTAMP_NS '2026-01-01 10:00:00' AS second"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_duckdb_writes_rows_as_python_does(mp, form):
    """With --write Python writes them."""
    fast, slow = (mp("query", "sql", TYPES, "-f", form, *more) for more in ([], ["--write"]))
    if form == "csv":
        assert fast.stdout.splitlines()[0] == slow.stdout.splitlines()[0]
        assert fast.stdout.replace('""a"":[1]', '""a"": [1]') == slow.stdout
    else:
        assert json.loads(fast.stdout) == json.loads(slow.stdout)


@pytest.mark.slow
def test_duckdb_writes_nested_rows_as_python_does(mp):
    """NaN in a list is null, and a decimal that no double holds is text."""
    with Database.open() as db, db.sql_copy(NESTED, "jsonl") as chunks:
        fast = json.loads(b"".join(chunks))
    assert [fast] == json.loads(mp("query", "sql", NESTED, "--write").stdout)


@pytest.mark.slow
def test_json_has_months_and_nanoseconds():
    """Python's own types would lose them."""
    query = "SELECT INTERVAL '1 month' AS i, TIMESTAMP_NS '2026-01-01 00:00:00.000000001' AS t"
    with Database.open() as db, db.sql_copy(query, "jsonl") as chunks:
        found = json.loads(b"".join(chunks))
    assert {"i": "1 month", "t": "2026-01-01T00:00:00.000000001"} == found


@pytest.mark.slow
def test_a_time_with_a_zone_is_written_in_utc(mp):
    """With its offset."""
    query = "SELECT TIMESTAMPTZ '2026-01-01 10:00:00+02' AS t"
    assert [{"t": "2026-01-01T08:00:00+00:00"}] == json.loads(mp("query", "sql", query).stdout)
    expected = "t\n2026-01-01 08:00:00.000000+00:00\n"
    assert expected == mp("query", "sql", query, "-f", "csv").stdout


@pytest.mark.slow
def test_a_limit_is_stated_with_what_remains(mp):
    """On stderr, so that the rows stay data."""
    limited = mp("query", "sql", "FROM events", "-f", "csv", "--limit", 2)
    assert 3 == len(limited.stdout.splitlines())
    assert "showing the first 2 rows; there are 70 more: --limit N shows N rows\n" == limited.stderr
    exactly = mp("query", "sql", "FROM events", "-f", "csv", "--limit", 72)
    assert (73, "") == (len(exactly.stdout.splitlines()), exactly.stderr)


FAR = """SELECT DATE 'infinity' AS a, '-infinity'::TIMESTAMP AS b, 'infinity'::TIMESTAMPTZ AS c,
    [DATE 'infinity'] AS d, INTERVAL '1 month' AS e"""
BYTES = "SELECT 'a\\xFFb'::BLOB AS b, MAP {'a': INTERVAL '1 month'} AS m, TIME '10:00:00.5' AS t"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("query", [FAR, BYTES])
def test_a_limit_does_not_change_the_values(mp, form, query):
    """Python has no infinite dates, and no months in an interval."""
    every, limited = (mp("query", "sql", query, "-f", form, *n) for n in ([], ["--limit", 1]))
    assert (every.stdout, "") == (limited.stdout, limited.stderr)
    if query == FAR and form != "csv":
        far = {"a": "infinity", "b": "-infinity", "c": "infinity", "d": ["infinity"]}
        assert far | {"e": "1 month"} == json.loads(limited.stdout.strip("[]\n\t"))
    elif query == FAR:
        assert "infinity,-infinity,infinity," in limited.stdout


@pytest.mark.slow
def test_a_limit_counts_rows_not_lines(mp):
    """A cell of CSV may have several lines; the order is that of the query."""
    query = "SELECT 'a\n\nb' || range AS t FROM range(3) ORDER BY range DESC"
    every = mp("query", "sql", query, "-f", "csv", "--limit", 3)
    assert ('t\n"a\n\nb2"\n"a\n\nb1"\n"a\n\nb0"\n', "") == (every.stdout, every.stderr)
    limited = mp("query", "sql", query, "-f", "csv", "--limit", 1)
    assert 't\n"a\n\nb2"\n' == limited.stdout
    assert "there are 2 more" in limited.stderr


NAN = """SELECT '{"a": [NaN, "x, nan", -inf, null], "nan": -5}'::JSON AS j, 'nan'::JSON AS n"""


@pytest.mark.slow
def test_nan_in_json_is_null(mp):
    """DuckDB accepts it, JSON does not; in a string it is text."""
    expected = {"j": {"a": [None, "x, nan", None, None], "nan": -5}, "n": None}
    for more in ([], ["--write"]):
        written = mp("query", "sql", NAN, "-f", "jsonl", *more).stdout
        assert expected == json.loads(written, parse_constant=lambda name: name)
    assert "null\n" == mp("query", "sql", "-s", "SELECT 'nan'::JSON", "-f", "json").stdout


@pytest.mark.slow
def test_a_table_shows_ten_thousand_rows(mp):
    """Other formats show all of them when they are not on a terminal."""
    many = "SELECT range AS n FROM range(12000)"
    table = mp("query", "sql", many, "-f", "table")
    assert 10_001 == len(table.stdout.splitlines())
    assert "there are 2,000 more" in table.stderr
    assert 12_000 == len(mp("query", "sql", many, "-f", "plain").stdout.splitlines())
    assert 12_001 == len(mp("query", "sql", many, "-f", "csv").stdout.splitlines())


def test_plain_has_all_columns(mp):
    """Separated by tabs, one row a line."""
    result = mp("query", "sql", "SELECT 1 AS a, 'x\ty\nz' AS b, NULL AS c", "-f", "plain")
    assert "1\tx y z\t\n" == result.stdout


@pytest.mark.slow
def test_rows_wider_than_the_terminal_are_records(mp):
    """One field a line, under the names of the columns."""
    query = "SELECT * FROM events ORDER BY insert_id LIMIT 1"
    lines = mp("query", "sql", query, "-f", "table", COLUMNS="50").stdout.splitlines()
    assert lines[0].startswith("-[ record 1 ]--")
    assert ["event_name", "Order", "Paid"] == lines[1].split()
    assert all(len(line.rstrip()) <= 50 for line in lines)
    wide = mp("query", "sql", query, "-f", "table", COLUMNS="160").stdout.splitlines()
    assert ["event_name", "event_time"] == wide[0].split()[:2]


def test_the_order_of_rows_is_kept(mp):
    """ORDER BY holds in every format."""
    query = "SELECT range AS n FROM range(30000) ORDER BY n DESC;  -- from the last one"
    rows = mp("query", "sql", query, "-f", "csv").stdout.splitlines()[1:]
    assert [*map(str, range(29_999, -1, -1))] == rows


@pytest.mark.slow
def test_a_missing_column_may_be_a_property(mp):
    """The error shows how to read it, and where a typed view comes from."""
    result = mp("query", "sql", "SELECT amount FROM events")
    assert ExitCode.USAGE == result.exit_code
    assert "properties->>'$.amount'" in result.stderr
    assert "mp inspect typed-view" in result.stderr
    quoted = mp("query", "sql", 'SELECT "Plan Name" FROM events')
    assert """properties->>'$."Plan Name"'""" in quoted.stderr


def test_now_is_in_utc(mp):
    """Whatever the machine's time zone is: times of events are in UTC."""
    query = "SELECT current_setting('TimeZone') AS zone"
    assert "UTC\n" == mp("query", "sql", "-s", query, "-f", "plain", TZ="Asia/Kolkata").stdout


# How it ends

ENDLESS = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range > b.range"
COMMANDS = {
    "query": ["query", "sql", ENDLESS],
    "rows": ["query", "sql", "FROM range(1000000000000)", "-f", "plain"],
    "copy": ["query", "sql", "FROM range(1000000000000)", "-f", "csv"],
    "export": ["export", "csv", "-", "--sql", "FROM range(1000000000000)"],
}


def started(folder, arguments):
    """Start `mp` on the database, and wait until its statement runs."""
    env = {**os.environ, "MP_DB": str(folder / "shop.db")}
    command = [sys.executable, "-m", "mixpanel.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_statement(shop, name):
    """With 130 and nothing on stderr."""
    with started(shop[0], COMMANDS[name]) as running:
        if name == "query":
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(3)
        else:
            assert running.stdout.read(10)
        running.send_signal(signal.SIGINT)
        _, message = running.communicate(timeout=60)
    assert (ExitCode.INTERRUPTED, b"") == (running.returncode, message)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows", "copy", "export"])
def test_a_reader_may_stop_early(shop, name):
    """As `head` does; this is no error."""
    with started(shop[0], COMMANDS[name]) as running:
        assert running.stdout.read(10)
        running.stdout.close()
        message = running.stderr.read()
    assert (ExitCode.OK, b"") == (running.wait(60), message)
