"""Which queries return many rows for a row that they read, and so are written in small batches."""

import threading

import duckdb
import pytest

from mixpanel.data.store import Database
from mixpanel.data.store.plans import multiplies_rows

EVENTS = 300_000
MEGABYTE = 1_000_000

MULTIPLYING = [
    "SELECT a.*, b.n AS other FROM events a, events b",
    "SELECT a.n FROM events a JOIN events b ON a.plan = b.plan",
    "SELECT a.n FROM events a LEFT JOIN events b ON a.plan = b.plan WHERE b.n > 7",
    "SELECT a.n FROM events a JOIN events b ON a.n < b.n",
    "SELECT a.n FROM events a JOIN events b ON a.n < b.n AND a.who > b.who",
    "SELECT a.n FROM events a JOIN events b ON a.who LIKE b.who",
    "SELECT n, unnest(range(n)) FROM events",
    "SELECT n, each.key FROM events, json_each(properties) each",
    "SELECT n, each.x FROM events, unnest([n, n + 1]) each(x)",
    "SELECT n FROM events UNION ALL SELECT a.n FROM events a, events b",
    "SELECT who FROM (SELECT a.n, a.who FROM events a, events b) JOIN profiles USING (who)",
    "SELECT * FROM (SELECT a.n FROM events a, events b) LIMIT 1000000",
    'SELECT a.n AS """ä,[{" FROM events a, events b',
]
NOT_MULTIPLYING = [
    "SELECT * FROM events",
    "SELECT * FROM events WHERE n IN (SELECT n FROM events WHERE who LIKE 'a%')",
    "SELECT * FROM events SEMI JOIN profiles USING (who)",
    "SELECT * FROM events ANTI JOIN profiles USING (who)",
    "SELECT * FROM events LEFT JOIN profiles USING (who)",
    "SELECT * FROM profiles JOIN events USING (who)",
    "SELECT * FROM events WHERE n > (SELECT avg(n) FROM events)",
    "SELECT n, start FROM events, (SELECT DATE '2026-01-01' AS start)",
    "SELECT * FROM events a ASOF JOIN profiles b ON a.who = b.who AND a.n >= b.n",
    "SELECT a.plan, count(*) FROM events a, events b GROUP BY ALL",
    "SELECT count(*) FROM events a, events b",
    "SELECT a.n FROM events a, events b ORDER BY b.n",
    "SELECT a.n FROM events a, events b ORDER BY b.n LIMIT 10",
    "SELECT sum(b.n) OVER (ORDER BY a.n) FROM events a, events b",
    "WITH x AS MATERIALIZED (SELECT a.n FROM events a, events b) SELECT n FROM x",
    "SELECT 1",
    " UNION ALL ".join(["SELECT 1"] * 900),
]


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE events AS SELECT range AS n, 'user-' || range % 9999 AS who, "
            "'plan-' || range % 5 AS plan, '{\"a\": 1}'::JSON AS properties "
            f"FROM range({EVENTS})"
        )
        connection.execute(
            "CREATE TABLE profiles AS SELECT 'user-' || range AS who, range AS n FROM range(9999)"
        )
        yield connection


@pytest.mark.parametrize("query", MULTIPLYING)
def test_queries_that_multiply_rows(connection, query):
    """By a join without a limit to its matches, or by lists."""
    assert multiplies_rows(connection, query)


@pytest.mark.parametrize("query", NOT_MULTIPLYING, ids=lambda query: query[:60])
def test_queries_that_do_not_multiply_rows(connection, query):
    """Or that keep them in memory or on disk before they return them, as a sort does."""
    assert not multiplies_rows(connection, query)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet", "stream", "jsonl"])
def test_an_export_of_multiplied_rows_needs_little_memory(tmp_path, name):
    """It held all rows that came of one row group before it wrote the first; the order is kept."""
    query = "SELECT n * 100 + unnest(range(100)) AS k, who FROM t"
    with Database.open(tmp_path / "a.db", memory_limit="2GB", threads=2) as db:
        columns = "range AS n, 'a user of the project, number ' || range AS who"
        db.sql_rows(f"CREATE TABLE t AS SELECT {columns} FROM range(30000)", write=True)
        peaks, ended = [0], threading.Event()

        def watch():
            while not ended.wait(0.01):
                peaks.append(db.sql_scalar("SELECT sum(memory_usage_bytes) FROM duckdb_memory()"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            written = export(db, query, tmp_path / name)
        finally:
            ended.set()
            watcher.join()
        assert max(peaks) < 150 * MEGABYTE
        if name != "stream":
            read = f"read_{'json' if name == 'jsonl' else name.split('.')[1]}"
            numbered = f"SELECT k, row_number() OVER () - 1 AS line FROM {read}('{written}')"
            found = duckdb.sql(f"SELECT count(*), bool_and(k = line) FROM ({numbered})").fetchall()
            assert [(3_000_000, True)] == found


def export(db, query, path):
    """Export the rows of a query; return the path of the file."""
    if path.suffix == ".parquet":
        db.export_parquet(None, path, query=query, partition_by=None)
    elif path.suffix in {".csv", ".gz"}:
        db.export_csv(None, path, query=query)
    else:
        is_csv = path.name == "stream"
        streamed = db.csv_bytes(None, query=query) if is_csv else db.sql_copy(query, "jsonl")
        with streamed as chunks, path.open("wb") as file:
            file.writelines(chunks)
    return path
